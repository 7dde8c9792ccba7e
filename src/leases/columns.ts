// Records as columns of numbers, for what there are a million of: a row is a number, its fields lie in arrays that grow together, and a row that
// is freed is the next to be taken. A record is as many octets as its fields have; as an object it is 16 and 8 for each, and work for the collector.

interface Arrays {
  readonly float64: Float64Array
  readonly float32: Float32Array
  readonly uint32: Uint32Array
  readonly int32: Int32Array
  readonly uint8: Uint8Array
}
export type Kinds = Readonly<Record<string, keyof Arrays>>
export type Columns<K extends Kinds> = { readonly [Field in keyof K]: Arrays[K[Field]] }

export interface Rows<K extends Kinds> {
  /** Read anew after each `take`: the arrays grow. */
  readonly at: Columns<K>
  /** Never 0: that is no row. Its fields are zero, or what they were when it was freed. */
  readonly take: () => number
  readonly free: (row: number) => void
  /** All rows that ever were taken are below. */
  readonly end: () => number
  /** Of one row. */
  readonly octets: number
}

type Column = Arrays[keyof Arrays]
const makers = {
  float64: Float64Array,
  float32: Float32Array,
  uint32: Uint32Array,
  int32: Int32Array,
  uint8: Uint8Array,
} as const

/** Rows at the start, and the least that are added; more are added by a thirty-second: so much of the memory may lie idle. */
const rowsMin = 64
/** Arrays grow in place within address space that is set aside for so many times their first length: copied at each growth, a new lease took 3 us more. */
const reservedTimes = 16

/** How long arrays become that are too short. */
export function grown(length: number): number {
  return length + Math.max(rowsMin, length >> 5)
}

/** The column with that many rows: itself, or its copy where its space is used up. Those that are new are zero. */
export function lengthened<C extends Column>(column: C, length: number): C {
  const buffer = column.buffer as ArrayBuffer
  const octets = length * column.BYTES_PER_ELEMENT
  if (buffer.resizable && octets <= buffer.maxByteLength) {
    buffer.resize(octets)
    return column
  }
  const longer = new (column.constructor as new (buffer: ArrayBuffer) => C)(
    new ArrayBuffer(octets, { maxByteLength: octets * reservedTimes }),
  )
  longer.set(column)
  return longer
}

/** @param link a field of kind int32: free rows are linked by it. */
export function makeRows<K extends Kinds>(kinds: K, link: keyof K): Rows<K> {
  const fields = Object.keys(kinds)
  const columns: Record<string, Column> = {}
  for (const field of fields) columns[field] = lengthened(new makers[kinds[field] ?? 'int32'](0) as Column, rowsMin)
  const links = (): Int32Array => columns[link as string] as Int32Array
  let length = rowsMin
  let end = 1
  let freed = 0

  function grow(): void {
    length = grown(length)
    for (const field of fields) columns[field] = lengthened(columns[field] as Column, length)
  }
  function take(): number {
    if (freed === 0) {
      if (end === length) grow()
      return end++
    }
    const row = freed
    freed = links()[row] ?? 0
    return row
  }
  function free(row: number): void {
    links()[row] = freed
    freed = row
  }
  const octets = fields.reduce((sum, field) => sum + (columns[field]?.BYTES_PER_ELEMENT ?? 0), 0)
  return { at: columns as unknown as Columns<K>, take, free, end: () => end, octets }
}
