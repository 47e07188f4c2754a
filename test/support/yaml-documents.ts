/** YAML as @fastify/swagger reads it; the parser is a package of its, not of ours. */
import { createRequire } from 'node:module'

const fromSwagger = createRequire(createRequire(import.meta.url).resolve('@fastify/swagger'))
const { parseAllDocuments } = fromSwagger('yaml') as { parseAllDocuments: (text: string, options: object) => Array<{ errors: Error[], toJS: () => unknown }> }

/** Every document of a file. @throws what is wrong with it. */
export function readYamlDocuments<T> (text: string): T[] {
  return parseAllDocuments(text, { merge: true }).map(document => {
    for (const error of document.errors) throw error
    return document.toJS() as T
  })
}
