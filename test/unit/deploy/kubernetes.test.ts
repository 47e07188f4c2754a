/** The manifests for Kubernetes hold together. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { readConfig } from '../../../src/config.ts'
import { readGatewayConfig } from '../../../src/gateway-config.ts'
import { readYamlDocuments } from '../../support/yaml-documents.ts'

interface Container {
  name: string
  image: string
  args?: string[]
  env?: Array<{ name: string, value?: string }>
  ports?: Array<{ name: string, containerPort: number }>
  volumeMounts: Array<{ name: string, mountPath: string }>
  securityContext?: { privileged?: boolean, capabilities?: { drop: string[] } }
  startupProbe: Probe
  readinessProbe: Probe
  livenessProbe: Probe
}
interface Probe { httpGet: { path: string, port: string } }
interface PodSpec {
  terminationGracePeriodSeconds: number
  initContainers: Container[]
  containers: [Container]
  volumes: Array<{ name: string, hostPath?: { path: string }, secret?: { secretName: string } }>
  securityContext?: { runAsNonRoot?: boolean }
}
interface Manifest {
  apiVersion: string
  kind: string
  metadata: { name: string, namespace?: string }
  spec: { selector?: { matchLabels?: object }, ports?: Array<{ port: number, targetPort: string }>, template: { metadata: { labels: object }, spec: PodSpec } }
}

const folder = new URL('../../../deploy/kubernetes/', import.meta.url)
const manifests = globSync('*.yaml', { cwd: folder }).flatMap(name => readYamlDocuments<Manifest>(readFileSync(new URL(name, folder), 'utf8')))
const workloads = manifests.filter(({ kind }) => ['DaemonSet', 'Deployment'].includes(kind))
const podOf = (name: string): PodSpec => workloads.find(({ metadata }) => metadata.name === name)!.spec.template.spec
const environmentOf = ({ env = [] }: Container) => Object.fromEntries(env.flatMap(({ name, value }) => value === undefined ? [] : [[name, value.replace('$(POD_IP)', '10.0.0.1').replace('$(NODE_NAME)', 'node-1')]]))

test('every workload selects its own pods, mounts what it declares, and is asked whether it is ready', () => {
  assert.deepEqual(workloads.map(({ kind }) => kind).toSorted(), ['DaemonSet', 'Deployment'])
  for (const { spec: { selector, template } } of workloads) {
    assert.deepEqual(selector?.matchLabels, template.metadata.labels)
    const volumes = template.spec.volumes.map(({ name }) => name)
    const [container] = template.spec.containers
    for (const { volumeMounts } of [container, ...template.spec.initContainers]) for (const { name } of volumeMounts) assert.ok(volumes.includes(name), name)
    assert.deepEqual([container.startupProbe, container.readinessProbe, container.livenessProbe].map(({ httpGet }) => httpGet.path), ['/healthz', '/readyz', '/healthz'])
    for (const probe of [container.startupProbe, container.readinessProbe, container.livenessProbe]) assert.ok(container.ports?.some(({ name }) => name === probe.httpGet.port))
  }
  for (const { kind, metadata } of manifests) if (kind !== 'Namespace') assert.equal(metadata.namespace, 'berth')
})

test('a host keeps its state on the node, and has the time to give its tasks back', () => {
  const { containers: [host], volumes, terminationGracePeriodSeconds } = podOf('berth-host')
  const config = readConfig({}, environmentOf(host))
  assert.equal(host.securityContext?.privileged, true)
  assert.equal(config.stopSandboxes, true)
  assert.ok(terminationGracePeriodSeconds * 1000 >= config.shutdownTimeoutMs + config.shutdownGraceMs + 60_000)
  const state = host.volumeMounts.find(({ mountPath }) => mountPath === config.stateDir)
  assert.ok(volumes.find(({ name }) => name === state?.name)?.hostPath)
  assert.deepEqual(volumes.flatMap(({ secret }) => secret?.secretName ?? []), ['berth-host'])
})

test('a gateway is nobody, and its settings are settings', () => {
  const { containers: [gateway], securityContext } = podOf('berth-gateway')
  const asked = new Set<string>()
  const environment = environmentOf(gateway)
  readGatewayConfig({}, new Proxy(environment, { get: (target, key) => { asked.add(String(key)); return target[String(key)] } }))
  assert.deepEqual(Object.keys(environment).filter(name => !asked.has(name)), [])
  assert.equal(securityContext?.runAsNonRoot, true)
  assert.deepEqual(gateway.securityContext?.capabilities?.drop, ['ALL'])
  const service = manifests.find(({ kind }) => kind === 'Service')
  for (const { targetPort } of service?.spec.ports ?? []) assert.ok(gateway.ports?.some(({ name }) => name === targetPort), targetPort)
  const { port } = service!.spec.ports!.find(({ targetPort }) => targetPort === 'grpc')!
  assert.equal(environmentOf(podOf('berth-host').containers[0]).BERTH_GATEWAY, `${service!.metadata.name}.berth.svc:${port}`)
})
