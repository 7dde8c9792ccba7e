// Runs the nft program, for structure and policy maps. (Learned addresses never wait for it: a fork costs 2.7 ms.)
import { spawn } from 'node:child_process'
import { systemEnvironment } from './programs.ts'

/** Runs `nft ARGS` with `input` on its stdin and gives its stdout. Rejects with `NftError`. */
export type Nft = (args: readonly string[], input?: string) => Promise<string>

/** `code`: `missing` (no nft program), `failed` (nft said no; its words are in the message), `timeout`. */
export class NftError extends Error {
  readonly code: 'missing' | 'failed' | 'timeout'
  constructor(code: 'missing' | 'failed' | 'timeout', message: string) {
    super(message)
    this.name = 'NftError'
    this.code = code
  }
}

/** A stuck nft is killed after this: the slowest real load (100 000 elements) takes a few seconds. */
const timeoutMillis = 30_000
/** Of what nft says, for messages. */
const complaintCharactersMax = 2000

/** @param prefix a command to run nft under, such as `nsenter --net=PATH`; [] for this namespace. */
export function makeNft(prefix: readonly string[] = []): Nft {
  const [program = 'nft', ...before] = [...prefix, 'nft']
  return (args, input = '') =>
    new Promise((resolve, reject) => {
      const child = spawn(program, [...before, ...args], {
        stdio: ['pipe', 'pipe', 'pipe'],
        timeout: timeoutMillis,
        env: systemEnvironment(),
      })
      let out = ''
      let complaint = ''
      child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        if (complaint.length < complaintCharactersMax) complaint += text
      })
      // A child that died before reading everything says why on stderr; the broken pipe itself tells nothing.
      child.stdin.on('error', () => undefined)
      child.on('error', (error: NodeJS.ErrnoException) => {
        reject(
          error.code === 'ENOENT'
            ? new NftError(
                'missing',
                `${program} is not installed (Debian: apt-get install ${program === 'nft' ? 'nftables' : 'util-linux'})`,
              )
            : new NftError('failed', error.message),
        )
      })
      child.on('close', (status, signal) => {
        if (status === 0) resolve(out)
        else if (signal === 'SIGTERM')
          reject(new NftError('timeout', `nft ${args.join(' ')} did not end within ${timeoutMillis} ms`))
        else
          reject(new NftError('failed', `nft ${args.join(' ')}: ${complaint.trim().slice(0, complaintCharactersMax)}`))
      })
      child.stdin.end(input)
    })
}
