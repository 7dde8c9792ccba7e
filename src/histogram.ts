// A histogram by one label whose values are known: arrays of numbers, since prom-client's looks its labels up by a text that it makes for each
// observation (2 us; this takes 0.05). It is registered there like any other. Pure.

interface Sample {
  readonly metricName: string
  readonly labels: Readonly<Record<string, string | number>>
  readonly value: number
}

export interface Histogram<V extends string> {
  readonly observe: (value: V, seconds: number) => void
  /** What prom-client's registry asks a metric for. */
  readonly metric: {
    readonly name: string
    readonly get: () => Promise<{ name: string; help: string; type: 'histogram'; aggregator: 'sum'; values: readonly Sample[] }> // prettier-ignore
  }
}

/** @param bounds upper bounds of the buckets, ascending, in seconds */
export function makeHistogram<V extends string>(name: string, help: string, label: string, values: readonly V[], bounds: readonly number[]): Histogram<V> {
  const held = Object.fromEntries(values.map((value) => [value, { counts: new Float64Array(bounds.length + 1), sum: 0 }])) as Record<V, { counts: Float64Array; sum: number }>
  function samplesOf(value: V): Sample[] {
    const { counts, sum } = held[value]
    let count = 0
    const buckets = [...bounds.map(String), '+Inf'].map((le, i) => ({ metricName: `${name}_bucket`, labels: { [label]: value, le }, value: (count += counts[i] ?? 0) }))
    const labels = { [label]: value }
    return [...buckets, { metricName: `${name}_sum`, labels, value: sum }, { metricName: `${name}_count`, labels, value: count }]
  }
  return {
    observe(value, seconds) {
      const of = held[value]
      let i = 0
      while (i < bounds.length && seconds > (bounds[i] ?? 0)) i++
      of.counts[i] = (of.counts[i] ?? 0) + 1
      of.sum += seconds
    },
    metric: { name, get: () => Promise.resolve({ name, help, type: 'histogram', aggregator: 'sum', values: values.flatMap(samplesOf) }) },
  }
} // prettier-ignore
