// Which resolvers are asked for which names: those of the longest suffix that the name lies under, else all others' (a cluster's own domain
// goes to the cluster's DNS, and nowhere else).
import { isUnder, type WireName } from '../wire/name.ts'
import type { Upstreams } from './upstream.ts'

export interface Route {
  readonly suffixes: readonly WireName[]
  readonly upstreams: Upstreams
}

/** @param fallback is asked for what no route names. A name of a route never goes there, not even when the route's servers are silent. */
export function makeRoutes(routes: readonly Route[], fallback: Upstreams): Upstreams {
  const bySuffix = routes
    .flatMap(({ suffixes, upstreams }) => suffixes.map((suffix) => ({ suffix, upstreams })))
    .sort((a, b) => b.suffix.length - a.suffix.length)
  const all = [...routes.map(({ upstreams }) => upstreams), fallback]
  return {
    ask: (question, flags) => (bySuffix.find(({ suffix }) => isUnder(question.wire, suffix))?.upstreams ?? fallback).ask(question, flags),
    strangers: () => all.reduce((sum, { strangers }) => sum + strangers(), 0),
    healthy: () => all.every(({ healthy }) => healthy()),
    close() {
      for (const { close } of all) close()
    },
  }
} // prettier-ignore
