// DNS over TCP: a message behind its length in two octets (RFC 1035 §4.2.2, RFC 7766 §8).

/** The message behind its length, as one piece, so that it leaves in one segment. At most 65535 octets. */
export function framed(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(2 + message.length)
  frame.writeUInt16BE(message.length, 0)
  frame.set(message, 2)
  return frame
}
