/** What an image says about how to run it. */
export interface ImageConfig {
  env: Record<string, string>
  cmd?: string[]
  entrypoint?: string[]
  user?: string
  workingDir?: string
  stopSignal?: string
}

/** The `config` member of an OCI image configuration as an ImageConfig; what has the wrong type is left out. */
export function imageConfigFromOci (value: unknown): ImageConfig {
  const source = isObject(value) ? value : {}
  const config: ImageConfig = { env: envFromList(strings(source.Env) ?? []) }
  const cmd = strings(source.Cmd)
  const entrypoint = strings(source.Entrypoint)
  // An empty list is how some builders write "none".
  if (cmd?.length) config.cmd = cmd
  if (entrypoint?.length) config.entrypoint = entrypoint
  if (isText(source.User)) config.user = source.User
  if (isText(source.WorkingDir)) config.workingDir = source.WorkingDir
  if (isText(source.StopSignal)) config.stopSignal = source.StopSignal
  return config
}

function envFromList (list: string[]): Record<string, string> {
  const entries = list.map(item => {
    const equals = item.indexOf('=')
    return equals < 0 ? [item, ''] : [item.slice(0, equals), item.slice(equals + 1)]
  })
  // fromEntries defines properties, so a variable called __proto__ is just a variable.
  return Object.fromEntries(entries.filter(([name]) => name !== ''))
}

/** Whether a JSON value is an object, and no array. */
export function isObject (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function strings (value: unknown): string[] | undefined {
  if (!Array.isArray(value) || !value.every(item => typeof item === 'string')) return undefined
  return value.some(item => item.includes('\0')) ? undefined : value
}

function isText (value: unknown): value is string {
  return typeof value === 'string' && value !== '' && !value.includes('\0')
}
