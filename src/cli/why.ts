// `namegate why POD|IP|PID NAME|IP:PORT`: whether it passes, the chain of facts that says so, and the smallest rule that would let it.
import { readFile } from 'node:fs/promises'
import { Option, type Command } from 'commander'
import type { WhyAnswer } from '../api/why.ts'
import { addressFromOctets, addressToText } from '../net/address.ts'
import { callApi } from './client.ts'
import { render, type Format } from './output.ts'
import { print } from './print.ts'
import { whyToText } from './verdict.ts'

/** For people: the verdict, a line for each link of the chain, and what would help. */
export function whyText({ from, to, text, chain, by, missing, rule, advice }: WhyAnswer): string {
  const marks = { true: 'ok', false: 'NO', undefined: '--' } as const
  const lines = chain.map(({ link, holds, text: said, why }) => `  ${marks[String(holds) as keyof typeof marks]}  ${link.padEnd(8)}  ${why === undefined || !said.includes(why.text) ? said : whyToText({ ...why, text: said })}`) // prettier-ignore
  return [
    `${from} -> ${to}`,
    `${text}${missing === undefined ? '' : ` [${missing}]`}`,
    ...(by?.policy === undefined ? [] : [`  rule: ${whyToText(by)}`]),
    ...lines,
    ...(advice === undefined ? [] : [advice]),
    ...(rule === undefined ? [] : ['the smallest rule that would allow it:', rule.trimEnd()]),
    '',
  ].join('\n')
}

/** The addresses of a process's network namespace, as the kernel lists them; loopback left out. Rejects when there is no such process. */
export async function addressesOfProcess(pid: string): Promise<string[]> {
  const [trie, six] = await Promise.all([
    readFile(`/proc/${pid}/net/fib_trie`, 'utf8'),
    readFile(`/proc/${pid}/net/if_inet6`, 'utf8').catch(() => ''),
  ])
  const found = new Set<string>()
  let last = ''
  // `|-- 10.1.0.2` and below it `/32 host LOCAL`.
  for (const line of trie.split('\n').map((each) => each.trim())) {
    if (line.startsWith('|-- ')) last = line.slice('|-- '.length)
    else if (line === '/32 host LOCAL' && !last.startsWith('127.')) found.add(last)
  }
  for (const line of six.split('\n')) {
    const [hex = '', , , , , name] = line.split(/ +/)
    if (hex.length === 32 && name !== 'lo') found.add(addressToText(addressFromOctets(Buffer.from(hex, 'hex'), 0, 16)))
  }
  return [...found]
}

async function sourceOf(text: string): Promise<string> {
  if (![...text].every((c) => c >= '0' && c <= '9')) return text
  const addresses = await addressesOfProcess(text).catch(() => {
    throw new Error(`there is no process ${text} here`)
  })
  if (addresses.length === 0) throw new Error(`process ${text} has no network`)
  return addresses.join(',')
}

export function addWhy(program: Command, asking: (command: Command) => Command): void {
  asking(
    program
      .command('why')
      .description('why a workload reaches a destination or does not: each fact, and the smallest rule that would allow it')
      .argument('<workload>', 'NAMESPACE/POD, POD, an IP address, or the number of a process here')
      .argument('<destination>', 'NAME, NAME:PORT, IP:PORT, [IPv6]:PORT or NAMESPACE/POD:PORT; port 443 unless said'),
  )
    .addOption(new Option('--protocol <name>', 'of the connection').choices(['tcp', 'udp', 'sctp', 'icmp']).default('tcp'))
    .addHelpText('after', '\nExamples:\n  namegate why shop/web api.example.com\n  namegate why 10.1.0.2 198.18.0.20:80\n  namegate why 4711 db.example.com:5432 -o json')
    .action(async (workload: string, destination: string, { api, output, protocol }: { api: string; output: Format; protocol: string }) => {
      const query = new URLSearchParams({ from: await sourceOf(workload), to: destination, protocol })
      const answer = (await callApi(api, 'GET', `/v1/why?${query.toString()}`)) as WhyAnswer
      await print(render(output, answer, () => whyText(answer)))
    })
} // prettier-ignore
