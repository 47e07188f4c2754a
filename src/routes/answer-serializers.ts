import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'

type Schemas = Record<string, unknown>
type BuildSerializers = ReturnType<typeof SerializerSelector>
type Compile = ReturnType<BuildSerializers>

/**
 * Makes the programs that turn answers into JSON. Each takes all named schemas through its hands, so a server with hundreds of answers
 * would be long in starting: an answer that is the same on many routes, as errors are, is made once, and each sees only the schemas that it
 * refers to.
 */
export function answerSerializers (): BuildSerializers {
  const build = SerializerSelector()
  return (externalSchemas, options) => {
    const named = externalSchemas as Schemas
    const made = new Map<string, ReturnType<Compile>>()
    return definition => {
      const text = JSON.stringify(definition.schema)
      const known = made.get(text)
      if (known) return known
      const serialize = build(reachableFrom(text, named), options)(definition)
      made.set(text, serialize)
      return serialize
    }
  }
}

/** The named schemas that a schema refers to, and those that they refer to. */
function reachableFrom (text: string, named: Schemas): Schemas {
  const found: Schemas = {}
  const texts = [text]
  for (let next = texts.pop(); next !== undefined; next = texts.pop()) {
    for (const [, name = ''] of next.matchAll(/"\$ref":"([^"#]+)#/g)) {
      if (name in found || named[name] === undefined) continue
      found[name] = named[name]
      texts.push(JSON.stringify(named[name]))
    }
  }
  return found
}
