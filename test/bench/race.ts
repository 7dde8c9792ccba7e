// Connect-on-answer: does an address work when its answer arrives, and after somebody flushed what was learned?
// Claim: 0 first packets lost, cached or not. What is counted is what reached the world, not what anybody says.
import { table } from '../../src/cli/output.ts'
import { contestants, type Contestant, type Lab } from './lab.ts'

const names = 2000

export async function race(lab: Lab): Promise<void> {
  const rows: string[][] = []
  for (const contestant of contestants()) rows.push(...(await lossesOf(lab, contestant)))
  console.log(`First packets lost of ${names}, sent at once on each answer`)
  console.log(
    table(
      ['resolver', 'family', 'in flight', 'UDP new', 'UDP after flush, cached', 'TCP new', 'TCP after flush, cached'],
      rows,
    ),
  )
}

async function lossesOf(lab: Lab, contestant: Contestant): Promise<string[][]> {
  const rows: string[][] = []
  for (const family of [4, 6] as const)
    for (const inFlight of [1, 50]) {
      const running = await contestant.start(lab)
      const cells: string[] = []
      for (const onAnswer of ['udp', 'tcp'] as const)
        for (const flushed of [false, true]) {
          if (flushed) contestant.flush()
          lab.arrived()
          const { answered, failed, slowConnects } = await lab.load({
            family,
            names,
            round: onAnswer,
            inFlight,
            onAnswer,
          })
          const lost = onAnswer === 'udp' ? answered - lab.arrived() : slowConnects
          cells.push(failed > 0 ? `${lost} (and ${failed} unanswered)` : String(lost))
        }
      await running.stop()
      const [udpNew = '', udpFlushed = '', tcpNew = '', tcpFlushed = ''] = cells
      rows.push([contestant.name, `IPv${family}`, String(inFlight), udpNew, udpFlushed, tcpNew, tcpFlushed])
    }
  return rows
}
