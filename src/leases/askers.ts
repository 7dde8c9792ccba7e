// Who asked for a lease. One asker, which most leases have, is the field itself; more are a chain of cells, of which the first says who asked last.
import { makeRows } from './columns.ts'

/** A field that says who asked: an endpoint's number, or, negative, the cell that a chain begins with. */
export type AskersField = number

export interface Askers {
  readonly alone: (endpoint: number) => AskersField
  /** The endpoint asked (again); gives what the field is from now on. */
  readonly note: (field: AskersField, endpoint: number) => AskersField
  readonly last: (field: AskersField) => number
  /** In the order in which they asked first. */
  readonly list: (field: AskersField) => number[]
  /** Leaves those that `remain`. */
  readonly filter: (field: AskersField, remain: (endpoint: number) => boolean) => AskersField
  readonly free: (field: AskersField) => void
  readonly isAlone: (field: AskersField) => boolean
  /** Cells in use. */
  readonly size: () => number
  readonly cellOctets: number
}

/** @param max askers of one lease; beyond, who asked first is forgotten. */
export function makeAskers(max: number): Askers {
  const rows = makeRows({ next: 'int32', endpoint: 'int32' }, 'next')
  let size = 0
  function cell(endpoint: number, next: number): number {
    const row = rows.take()
    size++
    rows.at.endpoint[row] = endpoint
    rows.at.next[row] = next
    return row
  }
  function release(row: number): void {
    rows.free(row)
    size--
  }
  const nextOf = (row: number): number => rows.at.next[row] ?? 0
  const endpointOf = (row: number): number => rows.at.endpoint[row] ?? 0
  const last = (field: AskersField): number => (field < 0 ? endpointOf(-field) : field)

  function note(field: AskersField, endpoint: number): AskersField {
    if (field === endpoint) return field
    if (field >= 0) return -cell(endpoint, cell(endpoint, cell(field, 0)))
    rows.at.endpoint[-field] = endpoint
    let count = 0
    let before = -field
    for (let row = nextOf(before); row !== 0; before = row, row = nextOf(row)) {
      if (endpointOf(row) === endpoint) return field
      if (++count < max) continue
      rows.at.next[before] = 0
      release(row)
      break
    }
    const added = cell(endpoint, nextOf(-field))
    rows.at.next[-field] = added
    return field
  }

  function list(field: AskersField): number[] {
    if (field >= 0) return [field]
    const all: number[] = []
    for (let row = nextOf(-field); row !== 0; row = nextOf(row)) all.push(endpointOf(row))
    return all.reverse()
  }

  function free(field: AskersField): void {
    for (let row = field < 0 ? -field : 0, next: number; row !== 0; row = next) {
      next = nextOf(row)
      release(row)
    }
  }

  function filter(field: AskersField, remain: (endpoint: number) => boolean): AskersField {
    const before = list(field)
    const after = before.filter(remain)
    if (after.length === before.length) return field
    const asked = last(field)
    free(field)
    if (after.length === 1 && after[0] === asked) return asked
    return -cell(asked, after.reduce((next, endpoint) => cell(endpoint, next), 0)) // prettier-ignore
  }
  return {
    alone: (endpoint) => endpoint,
    note,
    last,
    list,
    filter,
    free,
    isAlone: (field) => field >= 0,
    size: () => size,
    cellOctets: rows.octets,
  }
}
