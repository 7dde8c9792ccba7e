// Texts of latin1 characters as octets in chunks: as strings a million of them are 60 octets each and the collector's to walk. A new chunk is
// taken only when every other is in use for three quarters; else the emptiest is copied together. So neither memory nor pauses grow with what was.

export interface Texts {
  /** Writes a text for its owner; gives its place. The text has at most `textOctetsMax` characters, all of them octets. */
  readonly write: (owner: number, text: string) => number
  readonly read: (place: number) => string
  readonly isAt: (place: number, text: string) => boolean
  readonly length: (place: number) => number
  /** Goes on with a hash over the text's octets; as `hashed` does over a string. */
  readonly hash: (start: number, place: number) => number
  readonly drop: (place: number) => void
  /** Of all chunks. */
  readonly reserved: () => number
}

const chunkBits = 16
const chunkOctets = 1 << chunkBits
/** Of a place, where in its chunk. */
const inChunk = chunkOctets - 1
/** Before each text: its owner in four octets (0: dropped), its length in two. */
export const headOctets = 6
/** Names are at most 1 004 characters as text, each octet escaped (RFC 1035 §5.1). */
export const textOctetsMax = 4096

const mixed = (hash: number, octet: number): number => {
  const product = Math.imul(hash ^ octet, 0x5bd1e995)
  return product ^ (product >>> 15)
}
/** A hash of 32 bits over a text; as `Texts.hash`. */
export function hashed(start: number, text: string): number {
  let hash = start
  for (let i = 0; i < text.length; i++) hash = mixed(hash, text.charCodeAt(i))
  return hash
}

/** @param moved is told where an owner's text lies from now on. */
export function makeTexts(moved: (owner: number, place: number) => void): Texts {
  const chunks: Uint8Array[] = []
  /** Octets in each chunk that belong to texts; and where its texts end. */
  const live: number[] = []
  const ends: number[] = []
  const idle: number[] = []
  let current = -1

  function ownerAt(octets: Uint8Array, at: number): number {
    return ((octets[at] ?? 0) | ((octets[at + 1] ?? 0) << 8) | ((octets[at + 2] ?? 0) << 16) | ((octets[at + 3] ?? 0) << 24)) >>> 0 // prettier-ignore
  }
  function own(octets: Uint8Array, at: number, owner: number): void {
    octets[at] = owner
    octets[at + 1] = owner >>> 8
    octets[at + 2] = owner >>> 16
    octets[at + 3] = owner >>> 24
  }
  const lengthAt = (octets: Uint8Array, at: number): number => (octets[at + 4] ?? 0) | ((octets[at + 5] ?? 0) << 8)
  const chunkOf = (place: number): Uint8Array => chunks[place >>> chunkBits] ?? nowhere

  function takeChunk(): number {
    const chunk = idle.pop() ?? chunks.push(new Uint8Array(chunkOctets)) - 1
    live[chunk] = ends[chunk] = 0
    return chunk
  }

  /** The chunk with the least in it, where that is less than three quarters. */
  function emptiest(): number | undefined {
    let found: number | undefined
    let least = chunkOctets * 0.75
    live.forEach((octets, chunk) => {
      if (octets < least && !idle.includes(chunk)) [found, least] = [chunk, octets]
    })
    return found
  }

  /** Copies what lives in a chunk to the current one, an empty one. */
  function evacuate(chunk: number): void {
    const from = chunks[chunk] ?? nowhere
    const to = chunks[current] ?? nowhere
    let end = 0
    for (let at = 0; at < (ends[chunk] ?? 0);) {
      const size = headOctets + lengthAt(from, at)
      const owner = ownerAt(from, at)
      if (owner !== 0) {
        for (let i = 0; i < size; i++) to[end + i] = from[at + i] ?? 0
        moved(owner, (current << chunkBits) | end)
        end += size
      }
      at += size
    }
    live[current] = ends[current] = end
    live[chunk] = ends[chunk] = 0
    idle.push(chunk)
  }

  function write(owner: number, text: string): number {
    if (text.length > textOctetsMax) throw new RangeError(`a text of ${text.length} octets`)
    const size = headOctets + text.length
    if (current < 0 || (ends[current] ?? 0) + size > chunkOctets) {
      const sparse = emptiest()
      current = takeChunk()
      if (sparse !== undefined) evacuate(sparse)
    }
    const octets = chunks[current] ?? nowhere
    const at = ends[current] ?? 0
    own(octets, at, owner)
    octets[at + 4] = text.length
    octets[at + 5] = text.length >>> 8
    for (let i = 0; i < text.length; i++) {
      const octet = text.charCodeAt(i)
      if (octet > 0xff) throw new RangeError('a text that is not of octets')
      octets[at + headOctets + i] = octet
    }
    ends[current] = at + size
    live[current] = (live[current] ?? 0) + size
    return (current << chunkBits) | at
  }

  function read(place: number): string {
    const octets = chunkOf(place)
    const at = place & inChunk
    const text = octets.subarray(at + headOctets, at + headOctets + lengthAt(octets, at))
    // Spread, it goes through an iterator: 0.4 us.
    return Reflect.apply<undefined, number[], string>(String.fromCharCode, undefined, text as unknown as number[])
  }

  function isAt(place: number, text: string): boolean {
    const octets = chunkOf(place)
    const at = place & inChunk
    if (lengthAt(octets, at) !== text.length) return false
    for (let i = 0, from = at + headOctets; i < text.length; i++) if (octets[from + i] !== text.charCodeAt(i)) return false // prettier-ignore
    return true
  }

  function hash(start: number, place: number): number {
    const octets = chunkOf(place)
    const from = (place & inChunk) + headOctets
    const end = from + lengthAt(octets, place & inChunk)
    let sum = start
    for (let i = from; i < end; i++) sum = mixed(sum, octets[i] ?? 0)
    return sum
  }

  function drop(place: number): void {
    const chunk = place >>> chunkBits
    const octets = chunkOf(place)
    const at = place & inChunk
    live[chunk] = (live[chunk] ?? 0) - headOctets - lengthAt(octets, at)
    own(octets, at, 0)
    if (live[chunk] !== 0 || chunk === current) return
    ends[chunk] = 0
    idle.push(chunk)
  }

  return {
    write,
    read,
    isAt,
    hash,
    drop,
    length: (place) => lengthAt(chunkOf(place), place & inChunk),
    reserved: () => chunks.length * chunkOctets,
  }
}

const nowhere = new Uint8Array(0)
