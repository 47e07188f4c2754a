import type { FileEntry } from '../schemas/file.ts'
import { printable } from './printable.ts'
import type { Shell } from './shell.ts'
import { formatTable } from './table.ts'

const typeLetters: Record<FileEntry['type'], string> = {
  file: '-', directory: 'd', symlink: 'l', fifo: 'p', socket: 's', character_device: 'c', block_device: 'b', unknown: '?',
}

/** Text from inside: as it is for a program that reads on, without what a terminal would obey where it is one. */
export function shownText ({ output }: Shell, text: string, encoding?: 'base64' | undefined): string {
  const plain = encoding === undefined ? text : Buffer.from(text, encoding).toString(output.isTty.stdout ? 'utf8' : 'latin1')
  return output.isTty.stdout ? printable(plain) : plain
}

export function shownName (shell: Shell, { name, encoding }: FileEntry): string {
  return shownText(shell, name, encoding)
}

/** Lines like those of `ls -l`. */
export function formatFiles (shell: Shell, entries: FileEntry[]): string {
  if (entries.length === 0) return ''
  const rows = entries.map(entry => [
    describeMode(entry),
    printable(`${entry.owner ?? entry.uid}:${entry.group ?? entry.gid}`),
    String(entry.sizeBytes),
    entry.modifiedAt.replace('T', ' ').replace(/(\.\d+)?Z$/, ''),
    shownName(shell, entry) + (entry.target === undefined ? '' : ` -> ${shownText(shell, entry.target, entry.encoding)}`),
  ])
  const widest = Math.max(...rows.map(row => row[2]!.length))
  // Sizes stand in their column as numbers do; the headings are of no use to a line that is cut out.
  const lines = formatTable(['', '', '', '', ''], rows.map(row => row.map((cell, column) => column === 2 ? cell.padStart(widest) : cell)))
  return lines.slice(lines.indexOf('\n') + 1)
}

function describeMode ({ type, mode }: FileEntry): string {
  const bits = Number.parseInt(mode, 8)
  const three = [6, 3, 0].map(shift => ['r', 'w', 'x'].map((letter, index) => bits >> shift & 4 >> index ? letter : '-'))
  for (const [index, [bit, letter]] of ([[0o4000, 's'], [0o2000, 's'], [0o1000, 't']] as const).entries()) {
    if (bits & bit) three[index]![2] = three[index]![2] === 'x' ? letter : letter.toUpperCase()
  }
  return typeLetters[type] + three.flat().join('')
}

/** A line for each fact. */
export function describeFile (shell: Shell, entry: FileEntry): string {
  const facts: Array<[string, string | undefined]> = [
    ['path', shownText(shell, entry.path, entry.encoding)],
    ['type', entry.type],
    ['size', String(entry.sizeBytes)],
    ['mode', `${entry.mode} ${describeMode(entry)}`],
    ['owner', describeOwner(entry.uid, entry.owner)],
    ['group', describeOwner(entry.gid, entry.group)],
    ['modified', entry.modifiedAt],
    ['target', entry.target === undefined ? undefined : shownText(shell, entry.target, entry.encoding)],
  ]
  return facts.map(([name, value]) => value === undefined ? '' : `${name.padEnd(9)} ${value}\n`).join('')
}

function describeOwner (id: number, name: string | undefined): string {
  return name === undefined ? String(id) : `${id} (${printable(name)})`
}
