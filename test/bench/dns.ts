// The proxy against the resolvers that people use: questions per second from kept answers, for denied names and for new ones, in
// alternating rounds; latency at half of the highest load and of new names one by one; memory. What is measured has one
// core, dnsperf and the upstream the other. The generator may be close to its own limit, so processor time per question is told as well.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { table } from '../../src/cli/output.ts'
import { identities, names, resolvers, sources, zones, type Resolver } from './dnsContestants.ts'
import { loadCore, spread, type Lab } from './lab.ts'

const rounds = Number(process.env['NAMEGATE_BENCH_ROUNDS'] ?? 5)
const seconds = 3
/** New names of one run, 50 in flight, and of one that is asked one by one. */
const [coldNames, coldAlone] = [10_000, 2000]
/** Before those: nobody is measured while its code is still being compiled, which takes more than 3000 (90 us of processor each, then 55). */
const coldFirst = 20_000
const memoryNames = Number(process.env['NAMEGATE_BENCH_NAMES'] ?? 1_000_000)
/** A resolver that does not get through a run in this time is told of, and the run counts for nothing. */
const patienceSeconds = 15
/** Linux tells processor time in hundredths of a second, whatever the kernel's own clock is. */
const ticksPerSecond = 100

interface Run {
  readonly perSecond: number
  readonly lost: number
  readonly sent: number
  /** Of answers by their code, as dnsperf names them: `NOERROR`. */
  readonly rcodes: Readonly<Record<string, number>>
  /** Processor time of the measured process. */
  readonly microsPerQuestion: number
}

interface Trial {
  readonly title: string
  readonly file: string
  readonly rcodes: readonly string[]
  readonly transport: 'udp' | 'tcp'
}

export async function dns(lab: Lab): Promise<void> {
  if (spawnSync('dnsperf', ['-h']).error !== undefined) {
    console.log('dns: not measured: dnsperf is not installed (Debian: apt-get install dnsperf)')
    return
  }
  giveIdentities(lab)
  // As many lines as make each name always come from the same workload: its lease is there from the second time on.
  const kept = [...names.slice(0, 9000), ...Array.from({ length: 1000 }, (_, i) => `w.${zones[i] ?? ''}`)]
  const denied = Array.from({ length: 10_000 }, (_, i) => `n${i}.denied.test`)
  const trials: readonly Trial[] = [
    { title: 'warm', file: questions(lab, 'warm', kept), rcodes: ['NOERROR'], transport: 'udp' },
    { title: 'denied', file: questions(lab, 'denied', denied), rcodes: ['REFUSED', 'NXDOMAIN'], transport: 'udp' },
    { title: 'TCP, warm', file: questions(lab, 'warm', kept), rcodes: ['NOERROR'], transport: 'tcp' },
  ] // prettier-ignore
  const all = resolvers()
  const runs = new Map<string, Run[]>()
  const latencies = new Map<string, { p50: number; p99: number; p999: number }[]>()
  for (let round = 0; round < rounds; round++)
    for (const resolver of all) {
      const running = await resolver.start(lab)
      const pid = running.process.pid ?? 0
      for (const trial of trials) {
        // Everybody's answers are kept, leases stand and code is compiled before anything is measured.
        await perf(lab, trial, pid, ['-n', '3', '-q', '100'])
        const run = await perf(lab, trial, pid, ['-l', String(seconds), '-q', '200'])
        tellStrange(resolver, trial, run)
        push(runs, `${trial.title}/${resolver.name}`, run)
      }
      const [warm] = trials
      const half = Math.round((runs.get(`warm/${resolver.name}`)?.at(-1)?.perSecond ?? 0) / 2)
      if (warm !== undefined)
        push(latencies, resolver.name, await latency(lab, warm.file, ['-l', String(seconds), '-Q', String(half)]))
      await running.stop()
    }

  console.log(`DNS, ${identities} identities, ${names.length} names, ${zones.length} patterns, ${rounds} rounds of ${seconds} s: median (least-greatest)`) // prettier-ignore
  for (const { title } of trials) tell(title, all, runs)
  const rows = all.map(({ name }) => {
    const list = latencies.get(name) ?? []
    return [name, ...(['p50', 'p99', 'p999'] as const).map((p) => spread(list.map((one) => one[p] * 1e6)))]
  })
  console.log(table(['at half of its own highest load, us', 'p50', 'p99', 'p99.9'], rows))

  await cold(lab, 'new names (namegate commits to the kernel, nobody else does)', all)
  await memory(lab, all)
}

function tell(title: string, all: readonly Resolver[], runs: ReadonlyMap<string, readonly Run[]>): void {
  const ours = runs.get(`${title}/namegate`) ?? []
  const rows = all.map(({ name }) => {
    const theirs = runs.get(`${title}/${name}`) ?? []
    const ratios = ours.map((run, i) => run.perSecond / (theirs[i]?.perSecond ?? NaN))
    return [
      name,
      spread(theirs.map((run) => run.perSecond)),
      spread(theirs.map((run) => run.microsPerQuestion), 2),
      String(theirs.reduce((sum, run) => sum + run.lost, 0)),
      name === 'namegate' ? '' : `${spread(ratios, 2)}x`,
    ]
  }) // prettier-ignore
  console.log(table([title, 'per second', 'processor us each', 'lost', 'namegate against it, round by round'], rows))
}

/** Names that nobody has asked since the resolver started; each goes to the upstream. Then some one by one, against asking the upstream itself. */
async function cold(lab: Lab, title: string, all: readonly Resolver[]): Promise<void> {
  const runs = new Map<string, Run[]>()
  const waits = new Map<string, number[]>()
  // The upstream makes the address from the number: each name has one of its own, that nobody has leased yet.
  const trial = (part: string, count: number, first: number): Trial => ({
    title,
    file: questions(lab, `cold-${part}`, Array.from({ length: count }, (_, i) => `c${first + i}-${part}.${zones[i % zones.length] ?? ''}`)),
    rcodes: ['NOERROR'],
    transport: 'udp',
  }) // prettier-ignore
  const alone = trial('alone', coldAlone, 50_000).file
  for (let round = 0; round < rounds; round++) {
    push(waits, 'direct', (await latency(lab, alone, [...upstreamOptions, '-n', '1', '-q', '1'])).p50)
    for (const resolver of all) {
      const running = await resolver.start(lab)
      const pid = running.process.pid ?? 0
      await perf(lab, trial('first', coldFirst, 0), pid, ['-n', '1', '-q', '50'])
      const measured = trial('measured', coldNames, 20_000)
      const run = await perf(lab, measured, pid, ['-n', '1', '-q', '50'])
      tellStrange(resolver, measured, run)
      push(runs, `${title}/${resolver.name}`, run)
      push(waits, resolver.name, (await latency(lab, alone, ['-n', '1', '-q', '1'])).p50)
      await running.stop()
    }
  }
  tell(title, all, runs)
  const direct = waits.get('direct') ?? []
  const rows = all.map(({ name }) => {
    const added = (waits.get(name) ?? []).map((wait, i) => (wait - (direct[i] ?? NaN)) * 1e6)
    return [name, spread(added)]
  })
  console.log(table([`${title}, one by one`, 'added to asking the upstream directly, us, p50'], rows))
}

/**
 * What the process holds more than one with room for a few names, after it has answered so many, each for its own workload: garbage and the
 * messages themselves taken off; what the kernel holds for it is not in that.
 */
async function memory(lab: Lab, all: readonly Resolver[]): Promise<void> {
  const list = Array.from({ length: memoryNames }, (_, i) => `m${i}.${zones[i % zones.length] ?? ''}`)
  const messageOctets = list.reduce((sum, name) => sum + messageOctetsOf(name), 0) / list.length
  const trial: Trial = { title: 'memory', file: questions(lab, 'memory', list), rcodes: ['NOERROR'], transport: 'udp' }
  const rows: string[][] = []
  for (const resolver of all) {
    const small = await resolver.start(lab, fewNames)
    const before = await residentOctets(resolver, small.process.pid ?? 0)
    await small.stop()
    const running = await resolver.start(lab, Math.ceil(memoryNames * 1.04))
    const pid = running.process.pid ?? 0
    const run = await perf(lab, trial, pid, ['-n', '1', '-q', '100'], 1800)
    tellStrange(resolver, trial, run)
    const after = await residentOctets(resolver, pid)
    const each = (after - before) / memoryNames - messageOctets
    rows.push([resolver.name, (before / 2 ** 20).toFixed(0), (after / 2 ** 20).toFixed(0), each.toFixed(0), String(run.lost)]) // prettier-ignore
    await running.stop()
  }
  console.log('Memory. knot-resolver keeps them in a file.')
  console.log(
    table(
      [
        `${memoryNames} names`,
        'MiB with room for few',
        'MiB after',
        `octets a name beyond its message of ${messageOctets.toFixed(0)}`,
        'lost',
      ],
      rows,
    ),
  )
}

const fewNames = 1000
/** What the upstream answers for an A: header, the name, its type and class, and one record of 16 octets. */
const messageOctetsOf = (name: string): number => 12 + name.length + 2 + 4 + 16

/** VmRSS (proc(5)), without garbage. */
async function residentOctets({ collect }: Resolver, pid: number): Promise<number> {
  await collect?.(pid)
  return 1024 * Number(/^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1])
}

/** Each socket of the generator asks as one of the workloads, by its port, and knows nothing of it: both ways are rewritten, none is tracked. */
function giveIdentities(lab: Lab): void {
  const { status, err } = lab.client.sh(`set -e
    for i in $(seq 3 ${identities + 1}); do ip addr add 10.1.0.$i/24 dev eth0; done
    nft -f - <<'EOF'
table ip workloads {
  chain out { type filter hook output priority -300; meta l4proto {tcp, udp} th dport 53 ip saddr set th sport map { ${portMap()} }; }
  chain in { type filter hook prerouting priority -300; meta l4proto {tcp, udp} th sport 53 ip daddr set 10.1.0.2; }
}
EOF`) // prettier-ignore
  if (status !== 0) throw new Error(err)
}

/** The world's resolver itself, past whom is measured. */
const upstreamOptions = ['-s', '10.3.0.2', '-p', '5300']
/** The generator's own ports over UDP: a workload each, the same one in every run, so that what a run warmed the next one finds. */
const firstPort = 20_000
/** Ports to addresses; those that the system chose (TCP: a port cannot be taken again at once) in equal parts. */
function portMap(): string {
  const [first, last] = [firstPort + identities, 65_535]
  const width = Math.ceil((last - first + 1) / identities)
  const chosen = sources.map((ip, i) => `${first + i * width}-${Math.min(last, first + (i + 1) * width - 1)} : ${ip}`)
  return [`0-${firstPort - 1} : ${sources[0] ?? ''}`, ...sources.map((ip, i) => `${firstPort + i} : ${ip}`), ...chosen].join(', ') // prettier-ignore
}

function questions(lab: Lab, name: string, list: readonly string[]): string {
  const path = join(lab.folder, `${name}.txt`)
  writeFileSync(path, list.map((one) => `${one} A\n`).join(''))
  return path
}

function push<T>(lists: Map<string, T[]>, key: string, value: T): void {
  const list = lists.get(key)
  if (list === undefined) lists.set(key, [value])
  else list.push(value)
}

/** What makes a run worth nothing is said where it happens. */
function tellStrange({ name }: Resolver, { title, rcodes }: Trial, run: Run): void {
  if (Number.isNaN(run.perSecond)) console.log(`${name}, ${title}: not through after ${patienceSeconds} s`)
  const strange = Object.entries(run.rcodes).filter(([rcode]) => rcode !== '' && !rcodes.includes(rcode))
  if (strange.length > 0) console.log(`${name}, ${title}: unexpected answers: ${JSON.stringify(Object.fromEntries(strange))}`) // prettier-ignore
}

async function dnsperf(lab: Lab, options: readonly string[], patience = patienceSeconds): Promise<string> {
  const child = spawn('nsenter', [`--net=${lab.client.path}`, 'taskset', '-c', loadCore, 'timeout', String(patience), 'dnsperf', '-s', '10.1.0.1', '-T', '1', '-t', '2', ...options], { stdio: ['ignore', 'pipe', 'ignore'] }) // prettier-ignore
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  await once(child, 'close')
  return out
}

async function perf(
  lab: Lab,
  { file, transport }: Trial,
  pid: number,
  options: readonly string[],
  patience?: number,
): Promise<Run> {
  const clients = transport === 'tcp' ? '20' : String(identities)
  const before = processorSeconds(pid)
  const out = await dnsperf(lab, ['-d', file, '-m', transport, '-c', clients, ...(transport === 'udp' ? ['-x', String(firstPort)] : []), ...options], patience) // prettier-ignore
  const spent = processorSeconds(pid) - before
  const number = (label: string): number => Number.parseFloat(after(out, label))
  const codes = after(out, 'Response codes:')
    .split(', ')
    .map((part) => part.split(' '))
  return {
    perSecond: number('Queries per second:'),
    lost: number('Queries lost:'),
    sent: number('Queries sent:'),
    rcodes: Object.fromEntries(codes.map(([rcode = '', count]) => [rcode, Number(count)])),
    microsPerQuestion: (spent * 1e6) / number('Queries completed:'),
  }
}

/** What stands behind a label in dnsperf's summary. */
function after(out: string, label: string): string {
  return (
    out
      .split('\n')
      .find((line) => line.includes(label))
      ?.split(label)[1]
      ?.trim() ?? ''
  )
}

/** User and system time of all threads of a process (proc(5): fields 14 and 15 of stat). */
function processorSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
}

/** Seconds, of each question by itself. dnsperf -v prints `> NOERROR name type latency`. */
async function latency(
  lab: Lab,
  file: string,
  options: readonly string[],
): Promise<{ p50: number; p99: number; p999: number }> {
  const out = await dnsperf(lab, ['-d', file, '-c', String(identities), '-x', String(firstPort), '-v', ...options]) // prettier-ignore
  const all = out
    .split('\n')
    .filter((line) => line.startsWith('>'))
    .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)))
    .filter((value) => !Number.isNaN(value))
    .sort((a, b) => a - b)
  const at = (share: number): number => all[Math.floor(all.length * share)] ?? NaN
  return { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
}
