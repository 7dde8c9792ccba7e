// What stands in the way of a socket, in words that tell which option leads around it.

/** A socket could not be had. `code` is the errno's name (`EADDRINUSE`), stable. */
export class SocketError extends Error {
  readonly code: string
  constructor(message: string, cause: NodeJS.ErrnoException) {
    super(message, { cause })
    this.name = 'SocketError'
    this.code = cause.code ?? 'unknown'
  }
}

const reasons: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program has it',
  EADDRNOTAVAIL: 'this host has no such address',
  EACCES: 'we may not; ports below 1024 are for root, or CAP_NET_BIND_SERVICE',
}

/**
 * @param what whose socket it is, `the API`.
 * @param place `127.0.0.1:9653`, or a path.
 * @param option which sets another place.
 */
export function socketError(what: string, place: string, option: string, cause: unknown): SocketError {
  const error = cause as NodeJS.ErrnoException
  const reason = reasons[error.code ?? ''] ?? error.message
  return new SocketError(`${what} cannot listen on ${place}: ${reason}; ${option} sets another`, error)
}

/** `10.0.0.1:53`, `[::]:53`. */
export function placeText(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}
