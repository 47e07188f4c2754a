import { readSecretFile } from '../../../lib/secret-file.ts'

export interface AwsCredentials {
  accessKeyId: string
  secretAccessKey: string
  sessionToken?: string
}

const maxFileBytes = 256 * 1024

/**
 * Reads one profile of a file in the format of AWS's shared credentials file (`~/.aws/credentials`).
 *
 * @throws Error that says what is wrong with it, and holds nothing of it.
 */
export async function readAwsCredentials (path: string, profile: string): Promise<AwsCredentials> {
  return parseAwsCredentials((await readSecretFile(path, { minBytes: 1, maxBytes: maxFileBytes })).toString('utf8'), profile)
}

export function parseAwsCredentials (text: string, profile: string): AwsCredentials {
  const values = new Map<string, string>()
  let section = ''
  for (const line of text.split(/\r?\n/).map(part => part.trim())) {
    const header = /^\[\s*(.*?)\s*\]$/.exec(line)
    if (header) section = header[1] ?? ''
    const [, name, value] = /^(\w+)\s*=\s*(\S+)$/.exec(line) ?? []
    if (section === profile && name !== undefined && value !== undefined) values.set(name, value)
  }
  const accessKeyId = values.get('aws_access_key_id')
  const secretAccessKey = values.get('aws_secret_access_key')
  const sessionToken = values.get('aws_session_token')
  if (accessKeyId === undefined || secretAccessKey === undefined) throw new Error(`it has no aws_access_key_id and aws_secret_access_key under [${profile}]`)
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) }
}
