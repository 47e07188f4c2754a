import { InvalidArgumentError } from 'commander'

/** What `--filter` asks for, as typed: of each key its values in their order. */
export interface FilterKeys {
  /** Besides label, each with its allowed words; any text where there are none. */
  [key: string]: readonly string[] | undefined
}

/** For commander: checks one `--filter`. @throws InvalidArgumentError with how to write it. */
export function checkFilter (filter: string, keys: FilterKeys, examples: string): string {
  const [key, value] = splitOnce(filter)
  if (key === 'label' && value) return filter
  if (Object.hasOwn(keys, key) && value) {
    const words = keys[key]
    if (!words || words.includes(value)) return filter
    throw new InvalidArgumentError(`a ${key} is one of ${words.join(', ')}.`)
  }
  throw new InvalidArgumentError(`write it like ${examples}.`)
}

/** The values that were asked for under a key. */
export function filterValues (filters: readonly string[] | undefined, wanted: string): string[] {
  return (filters ?? []).map(splitOnce).flatMap(([key, value]) => key === wanted && value !== undefined ? [value] : [])
}

export interface LabelFilter {
  /** `key=value`, for the daemon. */
  whole: string[]
  /** Whether labels are as asked for: those too of which only the key was named, which the daemon does not know. */
  matches: (labels: Readonly<Record<string, string>>) => boolean
}

export function labelFilter (filters: readonly string[] | undefined): LabelFilter {
  const wanted = filterValues(filters, 'label').map(splitOnce)
  return {
    whole: wanted.filter(([, value]) => value !== undefined).map(([key, value]) => `${key}=${value}`),
    matches: labels => wanted.every(([key, value]) => value === undefined ? Object.hasOwn(labels, key) : labels[key] === value),
  }
}

function splitOnce (text: string): [key: string, value: string | undefined] {
  const at = text.indexOf('=')
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)]
}
