// One name against many patterns. Claim: at 100 000 patterns at most twice the cost at 10.
import { table } from '../../src/cli/output.ts'
import { readPattern } from '../../src/match/pattern.ts'
import { makeTrie } from '../../src/match/trie.ts'
import { median, spread } from './lab.ts'

const sizes = [10, 1000, 100_000]
const rounds = 9
const lookups = 200_000

const shapes: { name: string; pattern: (i: number) => string; hit: (i: number) => string }[] = [
  { name: 'names', pattern: (i) => `host${i}.example.com`, hit: (i) => `host${i}.example.com` },
  { name: '*.suffix', pattern: (i) => `*.zone${i}.example.com`, hit: (i) => `www.zone${i}.example.com` },
  { name: '**.suffix', pattern: (i) => `**.zone${i}.example.com`, hit: (i) => `a.b.zone${i}.example.com` },
  { name: 'prefix* siblings', pattern: (i) => `app${i}-*.example.com`, hit: (i) => `app${i}-x1.example.com` },
  { name: '*suffix siblings', pattern: (i) => `*-${i}.example.com`, hit: (i) => `x-${i}.example.com` },
]

export function patterns(): void {
  const rows = shapes.map(({ name, pattern, hit }) => {
    const tries = sizes.map((size) =>
      makeTrie(Array.from({ length: size }, (_, i) => ({ pattern: readPattern(pattern(i)), value: i }))),
    )
    // The same ten hits and ten misses for every size, so that only the patterns differ; rounds alternate between sizes.
    const asked = Array.from({ length: 10 }, (_, i) => [hit(i).split('.'), `miss.${hit(i)}.org`.split('.')]).flat()
    const times = sizes.map(() => [] as number[])
    for (let round = 0; round < rounds; round++)
      for (const [s, trie] of tries.entries()) {
        let found = 0
        const started = performance.now()
        for (let i = 0; i < lookups; i++) found += trie.lookup(asked[i % asked.length] ?? []).length
        const nanos = ((performance.now() - started) * 1e6) / lookups
        if (found === 0) throw new Error('nothing matched')
        if (round > 0) times[s]?.push(nanos)
      }
    const [small = [], , large = []] = times
    return [name, ...times.map((list) => spread(list)), `${(median(large) / median(small)).toFixed(2)}x`]
  })
  console.log('Nanoseconds a lookup, half hits and half misses: median (least-greatest)')
  console.log(table(['patterns', ...sizes.map(String), `${sizes.at(-1)} against ${sizes[0]}`], rows))
}
