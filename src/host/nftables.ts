/** Changes and reads the host's packet filter (nftables) through libnftables, without a child process. */
import { closeSync } from 'node:fs'
import { promisify } from 'node:util'
import koffi from 'koffi'
import { BerthError } from '../errors.ts'
import { openNetfilterSocket } from './libc.ts'

const libraryName = 'libnftables.so.1'
// nftables/libnftables.h
const NFT_CTX_DEFAULT = 0
const NFT_CTX_OUTPUT_JSON = 1 << 4
// An error quotes the commands, which may be as long as all rules.
const maxMessageLength = 1000
const maxCommandLength = 200

type Context = object

interface Library {
  create: (flags: number) => Context | null
  free: (context: Context) => void
  setOutputFlags: (context: Context, flags: number) => void
  bufferOutput: (context: Context) => number
  bufferError: (context: Context) => number
  readOutput: (context: Context) => string
  readError: (context: Context) => string
  run: (context: Context, commands: string) => Promise<number>
}

/** What libnftables or the kernel refused; nothing of the transaction is in force. */
export class NftablesError extends Error {
  /** The first line of the commands. */
  readonly command: string

  constructor (message: string, commands: string) {
    const command = commands.trimStart().split('\n', 1)[0]?.slice(0, maxCommandLength) ?? ''
    super(`nftables: ${message.trim().slice(0, maxMessageLength) || 'failed without a word'} (commands from: ${command})`)
    this.name = 'NftablesError'
    this.command = command
  }
}

/** libnftables has variables of the whole process, so that its contexts take turns. */
let turn: Promise<unknown> = Promise.resolve()

/**
 * A connection to the packet filter of the network namespace that the process is in when it is opened. Calls run off the event loop, one
 * after the other. What others change meanwhile is seen: libnftables asks the kernel for the generation of its rules before each call.
 */
export class Nftables {
  readonly #library: Library
  readonly #context: Context
  #isClosed = false

  private constructor (library: Library, context: Context) {
    this.#library = library
    this.#context = context
  }

  /** @throws BerthError unavailable `nftables_missing` where the library or the kernel's part is not there. */
  static open (name = libraryName): Nftables {
    let cause: unknown
    try {
      // libnftables ends the process where the kernel has no such socket.
      closeSync(openNetfilterSocket())
      const library = loadLibrary(name)
      const context = library.create(NFT_CTX_DEFAULT)
      if (context && library.bufferOutput(context) === 0 && library.bufferError(context) === 0) return new Nftables(library, context)
    } catch (error) {
      cause = error
    }
    throw new BerthError('unavailable', 'nftables_missing', `the packet filter cannot be used: ${name} (package libnftables1) or nftables in the kernel is missing; run: berth doctor`, { cause })
  }

  /**
   * Runs commands in the language of nft as one transaction: all of them, or none.
   *
   * @throws NftablesError
   */
  async run (commands: string): Promise<void> {
    await this.#call(commands, NFT_CTX_DEFAULT)
  }

  /**
   * Answers what a `list` command lists: the array `nftables` of libnftables-json(5), whose first element says which version speaks.
   *
   * @throws NftablesError also where there is no such table, set or chain.
   */
  async list (command: string): Promise<unknown[]> {
    const output = await this.#call(command, NFT_CTX_OUTPUT_JSON)
    return (JSON.parse(output) as { nftables: unknown[] }).nftables
  }

  /** Calls made before still come to their end; those made after are refused. */
  close (): void {
    if (this.#isClosed) return
    this.#isClosed = true
    void takeTurn(async () => { this.#library.free(this.#context) })
  }

  async #call (commands: string, outputFlags: number): Promise<string> {
    if (this.#isClosed) throw new NftablesError('the connection to the packet filter is closed', commands)
    return await takeTurn(async () => {
      this.#library.setOutputFlags(this.#context, outputFlags)
      const result = await this.#library.run(this.#context, commands)
      // Reading one rewinds it, also when nobody wants it.
      const output = this.#library.readOutput(this.#context)
      const error = this.#library.readError(this.#context)
      if (result !== 0) throw new NftablesError(error, commands)
      return output
    })
  }
}

function takeTurn<T> (act: () => Promise<T>): Promise<T> {
  const result = turn.then(act)
  turn = result.catch(() => {})
  return result
}

const loadedLibraries = new Map<string, Library>()

function loadLibrary (name: string): Library {
  const loaded = loadedLibraries.get(name)
  if (loaded) return loaded
  const file = koffi.load(name)
  const run = file.func('int nft_run_cmd_from_buffer(void *context, const char *commands)')
  const library: Library = {
    create: file.func('void *nft_ctx_new(uint32_t flags)'),
    free: file.func('void nft_ctx_free(void *context)'),
    setOutputFlags: file.func('void nft_ctx_output_set_flags(void *context, unsigned int flags)'),
    bufferOutput: file.func('int nft_ctx_buffer_output(void *context)'),
    bufferError: file.func('int nft_ctx_buffer_error(void *context)'),
    readOutput: file.func('const char *nft_ctx_get_output_buffer(void *context)'),
    readError: file.func('const char *nft_ctx_get_error_buffer(void *context)'),
    run: promisify<Context, string, number>(run.async),
  }
  loadedLibraries.set(name, library)
  return library
}
