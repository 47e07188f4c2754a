/** Settings of the running kernel, by their path below /proc/sys: `net/ipv4/ip_forward`. Those of the network are of this network namespace. */
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'

/** The value, or undefined when this kernel has no such setting. */
export async function readSysctl (path: string): Promise<string | undefined> {
  try {
    // The kernel answers out of memory, in microseconds; by way of other threads a busy host takes milliseconds.
    return readFileSync(`/proc/sys/${path}`, 'latin1').trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Changes it until the next boot. Throws the system's error where it cannot be changed. */
export async function writeSysctl (path: string, value: string): Promise<void> {
  await writeFile(`/proc/sys/${path}`, value)
}
