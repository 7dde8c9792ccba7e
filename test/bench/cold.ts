// Cold lookups per second: new names, forwarded, each address acknowledged by the kernel before its answer. Alternating rounds.
// Claim: at least twice dnsmasq with nftset.
import { table } from '../../src/cli/output.ts'
import { contestants, median, spread, type Lab } from './lab.ts'

const names = 20_000
const rounds = 5
const inFlight = 50

export async function cold(lab: Lab): Promise<void> {
  const all = contestants()
  const rates = new Map(all.map(({ name }) => [name, [] as number[]]))
  for (let round = 0; round <= rounds; round++)
    for (const contestant of all) {
      const running = await contestant.start(lab)
      // As many first: nobody is measured while its code is still being compiled, which takes more than 3000 (90 us of processor each, then 55).
      await lab.load({ family: 4, names, round: `w${round}`, inFlight, onAnswer: 'nothing' })
      const { answered, failed, seconds } = await lab.load({
        family: 4,
        names,
        round: `r${round}`,
        inFlight,
        onAnswer: 'nothing',
      })
      await running.stop()
      if (failed > 0) console.log(`${contestant.name}: ${failed} unanswered in round ${round}`)
      if (round > 0) rates.get(contestant.name)?.push(answered / seconds)
    }
  const ours = rates.get('namegate') ?? []
  const rows = [...rates].map(([name, list]) => {
    const ratios = ours.map((rate, i) => rate / (list[i] ?? NaN))
    return [name, spread(list), name === 'namegate' ? '' : `${median(ratios).toFixed(2)}x (${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)})`]
  }) // prettier-ignore
  console.log(
    `Cold lookups per second with kernel commit, ${inFlight} in flight, ${names} names, ${rounds} rounds: median (least-greatest)`,
  )
  console.log(table(['resolver', 'per second', 'namegate against it, round by round'], rows))
}
