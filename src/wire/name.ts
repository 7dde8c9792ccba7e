// Domain names: read from a message into folded wire form (uncompressed, ASCII lower case, one latin1 character an octet), the one
// form in which names are compared; and the text form for people (RFC 1035 §3.1, §4.1.4, §5.1; RFC 4343).

/** Uncompressed lower-case octets with length octets and the final zero. Two names are equal exactly when these are. */
export type WireName = string & { readonly brand: 'WireName' }
/** Presentation form: lower case, no final dot ('.' is the root), `\.`, `\\` and `\DDD` escapes, so that equal text means equal names. */
export type Name = string & { readonly brand: 'Name' }

export const nameOctetsMax = 255
const labelOctetsMax = 63
/** A name has at most 127 labels and needs no more pointers than these; a message of nothing but pointers must not cost 8000 steps a name. */
const pointersMax = 126
/** Names stand behind the header. One that led into it would change with the message's ID and flags. */
const firstName = 12

const scratch = new Uint8Array(nameOctetsMax)

export interface ReadName {
  readonly wire: WireName
  /** Offset behind the name where it stands (behind its first pointer, if it has one). */
  readonly end: number
}

/**
 * The name at `at`. A pointer must point behind the header and before the label sequence that it ends, so reading always ends. `undefined` for anything
 * malformed: cut off, over 255 octets, reserved label types, pointers forward or to themselves, more than 126 of them.
 */
export function readName(message: Uint8Array, at: number): ReadName | undefined {
  let end = -1
  let start = at
  let size = 0
  let pointers = 0
  for (;;) {
    const length = message[at]
    if (length === undefined) return undefined
    if (length >= 0xc0) {
      const low = message[at + 1]
      if (low === undefined) return undefined
      const target = ((length & 0x3f) << 8) | low
      if (end < 0) end = at + 2
      if (target >= start || target < firstName || ++pointers > pointersMax) return undefined
      start = at = target
      continue
    }
    if (length > labelOctetsMax || size + length + 1 > nameOctetsMax || at + length >= message.length) return undefined
    scratch[size++] = length
    for (let i = at + 1; i <= at + length; i++) {
      const octet = message[i] ?? 0
      scratch[size++] = octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet
    }
    at += length + 1
    if (length === 0) break
  }
  return {
    wire: String.fromCharCode.apply(null, scratch.subarray(0, size) as unknown as number[]) as WireName,
    end: end < 0 ? at : end,
  }
}

/** Its labels as latin1 strings, leftmost first; the root has none. */
export function labelsOf(wire: WireName): string[] {
  const labels: string[] = []
  for (let at = 0; ;) {
    const length = wire.charCodeAt(at)
    if (!(length > 0)) return labels
    labels.push(wire.slice(at + 1, at + 1 + length))
    at += length + 1
  }
}

/** Presentation form of labels. */
export function nameFromLabels(labels: readonly string[]): Name {
  return (labels.length === 0 ? '.' : labels.map(escapeLabel).join('.')) as Name
}

function escapeLabel(label: string): string {
  let text = ''
  for (let i = 0; i < label.length; i++) {
    const octet = label.charCodeAt(i)
    const character = label.charAt(i)
    if (character === '.' || character === '\\') text += `\\${character}`
    else if (octet < 0x21 || octet > 0x7e) text += `\\${String(octet).padStart(3, '0')}`
    else text += character
  }
  return text
}

/** Parses presentation form, with or without final dot; `undefined` when a label or the name is empty or too long, or an escape is wrong. */
export function wireFromText(text: string): WireName | undefined {
  if (text === '.') return '\0' as WireName
  let wire = ''
  let label = ''
  for (let i = 0; i < text.length; i++) {
    let octet = text.charCodeAt(i)
    if (octet > 0xff) return undefined
    if (octet === 0x2e) {
      if (label === '' || label.length > labelOctetsMax) return undefined
      wire += String.fromCharCode(label.length) + label
      label = ''
      continue
    }
    if (octet === 0x5c) {
      const digits = text.slice(i + 1, i + 4)
      if (digits.length === 3 && [...digits].every((d) => d >= '0' && d <= '9')) {
        octet = Number(digits)
        if (octet > 0xff) return undefined
        i += 3
      } else {
        octet = text.charCodeAt(++i)
        // Three digits or none: `\2` alone is not an escape (RFC 1035 §5.1).
        if (!(octet <= 0xff) || (octet >= 0x30 && octet <= 0x39)) return undefined
      }
    }
    label += String.fromCharCode(octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet)
  }
  if (label.length > labelOctetsMax) return undefined
  if (label !== '') wire += String.fromCharCode(label.length) + label
  if (wire === '' || wire.length + 1 > nameOctetsMax) return undefined
  return `${wire}\0` as WireName
}

/** Whether `ancestor` is `name` or a name above it. */
export function isUnder(name: WireName, ancestor: WireName): boolean {
  if (!name.endsWith(ancestor)) return false
  // The tail must begin at a label: walk the length octets.
  for (let at = 0; at < name.length; at += name.charCodeAt(at) + 1)
    if (name.length - at === ancestor.length) return true
  return false
}

/**
 * A number for a name: of 32 bits with a sign, which V8 keeps without an object. Two names of one number are rare, and none can be chosen by
 * who does not know the seed (FNV-1a, mixed further).
 */
export function numberOfName(name: WireName, seed: number): number {
  let number = seed | 0
  for (let i = 0; i < name.length; i++) number = mixed(number, name.charCodeAt(i))
  number = Math.imul(number ^ (number >>> 16), 0x85ebca6b)
  return number ^ (number >>> 13)
}

/** One step of it. */
export const mixed = (number: number, value: number): number => Math.imul(number ^ (number >>> 17) ^ value, 0x01000193)
