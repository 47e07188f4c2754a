import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseImageReference } from '../../../src/services/images/image-reference.ts'

const accepted: Array<[string, object]> = [
  ['berth/base', { kind: 'base' }],
  ['dir:/srv/rootfs', { kind: 'dir', path: '/srv/rootfs' }],
  ['dir:/srv/a:b', { kind: 'dir', path: '/srv/a:b' }],
  ['oci:/srv/layout', { kind: 'oci', path: '/srv/layout' }],
  ['oci:/srv/layout:3.12', { kind: 'oci', path: '/srv/layout', tag: '3.12' }],
  ['oci:/srv/layout:localhost:5000/team/app:v1', { kind: 'oci', path: '/srv/layout', tag: 'localhost:5000/team/app:v1' }],
  ['oci-archive:/srv/image.tar', { kind: 'oci-archive', path: '/srv/image.tar' }],
  ['oci-archive:/srv/image.tar:v1', { kind: 'oci-archive', path: '/srv/image.tar', tag: 'v1' }],
  ['docker-archive:/srv/image.tar.gz', { kind: 'docker-archive', path: '/srv/image.tar.gz' }],
  ['docker-archive:/srv/image.tar:registry:5000/team/app:v1', { kind: 'docker-archive', path: '/srv/image.tar', tag: 'registry:5000/team/app:v1' }],
  ['python:3.12', { kind: 'registry', reference: { registry: 'docker.io', repository: 'library/python', tag: '3.12' } }],
  ['docker://alpine', { kind: 'registry', reference: { registry: 'docker.io', repository: 'library/alpine', tag: 'latest' } }],
  ['registry:5000/team/img:tag', { kind: 'registry', reference: { registry: 'registry:5000', repository: 'team/img', tag: 'tag' } }],
  ['berth/other', { kind: 'registry', reference: { registry: 'docker.io', repository: 'berth/other', tag: 'latest' } }],
]

const refused: Array<[string, string]> = [
  ['', 'invalid_image_reference'],
  ['x'.repeat(1025), 'invalid_image_reference'],
  ['dir:rootfs', 'invalid_image_reference'],
  ['dir:', 'invalid_image_reference'],
  ['dir:/srv/../etc', 'invalid_image_reference'],
  ['dir:/srv/\0', 'invalid_image_reference'],
  ['oci:layout:tag', 'invalid_image_reference'],
  ['oci:/srv/../layout', 'invalid_image_reference'],
  ['oci:/srv/layout:', 'invalid_image_reference'],
  ['oci:/srv/layout:-tag', 'invalid_image_reference'],
  ['Python:3.12', 'invalid_image_reference'],
  ['a b', 'invalid_image_reference'],
  ['../x', 'invalid_image_reference'],
  ['/srv/rootfs', 'invalid_image_reference'],
  ['name@sha256:12', 'invalid_image_reference'],
  ['line\nbreak', 'invalid_image_reference'],
  ['oci-archive:image.tar', 'invalid_image_reference'],
  ['oci-archive:/srv/../image.tar', 'invalid_image_reference'],
  ['docker-archive:', 'invalid_image_reference'],
  ['docker-archive:/x.tar:', 'invalid_image_reference'],
  ['docker-daemon:alpine:latest', 'image_source_unsupported'],
  ['containers-storage:alpine', 'image_source_unsupported'],
]

test('references of each kind are read into their parts', () => {
  for (const [text, expected] of accepted) assert.deepEqual(parseImageReference(text), expected, text)
})

test('references that cannot be used are refused with a code that says why', () => {
  for (const [text, code] of refused) assert.throws(() => parseImageReference(text), { kind: 'invalid_argument', code }, JSON.stringify(text))
})

test('the refusal of a path or a place that cannot be reached says which kinds work', () => {
  for (const text of ['/srv/rootfs', './rootfs', 'docker-daemon:alpine']) assert.throws(() => parseImageReference(text), /berth\/base, dir:.*oci:.*docker-archive:/, text)
})

test('a long hostile reference is judged in linear time', () => {
  for (const text of ['a-'.repeat(500), 'a/'.repeat(511), 'a__'.repeat(340), 'a.'.repeat(500) + '/']) {
    assert.throws(() => parseImageReference(text), { kind: 'invalid_argument' })
  }
})
