// `npm run bench [-- race cold patterns policy observe commit leases packet dns restart]`: prints what it measures, ratios within one run. Nothing passes or fails here.
import { cold } from './cold.ts'
import { commit } from './commit.ts'
import { dns } from './dns.ts'
import { leases } from './leases.ts'
import { makeLab, type Lab } from './lab.ts'
import { observe } from './observe.ts'
import { packet } from './packet.ts'
import { patterns } from './patterns.ts'
import { policy } from './policy.ts'
import { race } from './race.ts'
import { restart } from './restart.ts'
import { whyNoKernel } from '../support/lab.ts'

const programs: Readonly<Record<string, (lab: () => Promise<Lab>) => Promise<void> | void>> = {
  patterns,
  policy,
  observe,
  commit: async (lab) => {
    await lab()
    await commit()
  },
  leases: async (lab) => {
    await lab()
    await leases()
  },
  packet: async (lab) => {
    await lab()
    await packet()
  },
  race: async (lab) => race(await lab()),
  cold: async (lab) => cold(await lab()),
  dns: async (lab) => dns(await lab()),
  restart: async (lab) => restart(await lab()),
}

const asked = process.argv.slice(2)
const unknown = asked.filter((name) => !(name in programs))
if (unknown.length > 0) {
  console.error(`there is no benchmark ${unknown.join(', ')}; there is ${Object.keys(programs).join(', ')}`)
  process.exit(2)
}
const reason = whyNoKernel()
let made: Promise<Lab> | undefined
const lab = (): Promise<Lab> => (made ??= makeLab())
try {
  for (const [name, program] of Object.entries(programs)) {
    if (asked.length > 0 && !asked.includes(name)) continue
    if (reason !== undefined && !['patterns', 'policy', 'observe'].includes(name))
      console.log(`${name}: not measured: ${reason}`)
    else await program(lab)
  }
} finally {
  if (made !== undefined) (await made).stop()
}
