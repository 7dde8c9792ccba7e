// Rows that belong to one other row, in the order in which they came: a ring linked both ways through columns.

/** The columns of one kind of ring: `first` is of the owners, the others of the members. 0 is no row. */
export interface Ring {
  readonly first: Int32Array
  readonly next: Int32Array
  readonly before: Int32Array
}

/** Puts a row behind all others of its owner. */
export function append({ first, next, before }: Ring, owner: number, row: number): void {
  const head = first[owner] ?? 0
  if (head === 0) {
    first[owner] = next[row] = before[row] = row
    return
  }
  const last = before[head] ?? 0
  next[last] = row
  before[row] = last
  next[row] = head
  before[head] = row
}

export function unlink({ first, next, before }: Ring, owner: number, row: number): void {
  const following = next[row] ?? 0
  const last = before[row] ?? 0
  next[last] = following
  before[following] = last
  if (first[owner] === row) first[owner] = following === row ? 0 : following
}
