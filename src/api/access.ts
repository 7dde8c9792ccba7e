// Who may ask over TCP: whoever shows the token of a file (RFC 6750), or a certificate. What is read from files is checked here.
import { createHash, timingSafeEqual } from 'node:crypto'
import { open, readFile } from 'node:fs/promises'

/** A file that guards access cannot be used; the message begins with the option that names it. */
export class AccessError extends Error {
  readonly code = 'access'
}

/** Whether an Authorization header shows the token. */
export type TokenTest = (authorization: string | undefined) => boolean

/** 128 bits in base64 are 22 characters. */
const tokenLengthMin = 22
const tokenLengthMax = 1024
/** Others have no rights, and the group may only read: what the file guards is for its owner and group, as the unix socket is. */
const rightsOfOthers = 0o037

/** Reads a token: one line of visible ASCII, in a file that others cannot read or change. Rejects with `AccessError`. */
export async function readToken(file: string, option: string): Promise<string> {
  const wrong = (what: string): AccessError => new AccessError(`${option}: ${file} ${what}`)
  const handle = await open(file, 'r').catch((error: unknown) => {
    throw wrong(`cannot be read: ${(error as Error).message}`)
  })
  try {
    const about = await handle.stat()
    if (!about.isFile()) throw wrong('is no file')
    if ((about.mode & rightsOfOthers) !== 0) throw wrong(`may be read or changed by others (mode ${(about.mode & 0o777).toString(8)}); chmod 600 it`) // prettier-ignore
    if (about.size > tokenLengthMax + 2) throw wrong(`is longer than ${tokenLengthMax} characters`)
    const text = (await handle.readFile('latin1')).trimEnd()
    if (text.length < tokenLengthMin) throw wrong(`has fewer than ${tokenLengthMin} characters; openssl rand -base64 32 makes a token`) // prettier-ignore
    if ([...text].some((c) => c <= ' ' || c > '~')) throw wrong('has something else than one line of visible ASCII')
    return text
  } finally {
    await handle.close()
  }
}

/** Takes as long whatever is shown: digests are compared, which have one length. */
export function makeTokenTest(token: string): TokenTest {
  const digest = (text: string): Buffer => createHash('sha256').update(text, 'latin1').digest()
  const wanted = digest(token)
  return (authorization = '') => {
    // The scheme is compared without case (RFC 9110 §11.1).
    const isBearer = authorization.slice(0, 7).toLowerCase() === 'bearer '
    const isSame = timingSafeEqual(digest(authorization.slice(7).trim()), wanted)
    return isBearer && isSame
  }
}

/** Paths of PEM files. With `clientCa`, clients must show a certificate of that. */
export interface TlsFiles {
  readonly certificate: string
  readonly key: string
  readonly clientCa?: string | undefined
}

export interface Tls {
  readonly certificate: Buffer
  readonly key: Buffer
  readonly clientCa?: Buffer
}

/** @param option where the files are named: `api.tls`. Rejects with `AccessError`. */
export async function readTls({ certificate, key, clientCa }: TlsFiles, option: string): Promise<Tls> {
  const read = (file: string, field: string): Promise<Buffer> =>
    readFile(file).catch((error: unknown) => {
      throw new AccessError(`${option}.${field}: ${file} cannot be read: ${(error as Error).message}`)
    })
  return {
    certificate: await read(certificate, 'certificate'),
    key: await read(key, 'key'),
    ...(clientCa === undefined ? {} : { clientCa: await read(clientCa, 'clientCa') }),
  }
}
