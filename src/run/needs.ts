// What namespaces and gates need of the machine: programs and rights.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { systemEnvironment } from '../datapath/programs.ts'

/** Programs that are needed, and Debian's packages of them. */
const packageOf = {
  nft: 'nftables',
  ip: 'iproute2',
  nsenter: 'util-linux',
  unshare: 'util-linux',
  setpriv: 'util-linux',
  mount: 'mount',
}

export function isInstalled(program: string): boolean {
  return spawnSync(program, ['--version'], { stdio: 'ignore', env: systemEnvironment() }).error === undefined
}

/** Says what is not installed, and how it comes; undefined when nothing is missing. */
export function whatIsMissing(): string | undefined {
  const missing = Object.entries(packageOf).filter(([program]) => !isInstalled(program))
  if (missing.length === 0) return undefined
  const packages = new Set(missing.map(([, name]) => name))
  return `not installed: ${missing.map(([program]) => program).join(', ')} (Debian: apt-get install ${[...packages].join(' ')})`
}

/** CAP_NET_ADMIN and CAP_SYS_ADMIN, which root of a container often lacks; a user namespace gives them. */
export function mayChangeNetworks(): boolean {
  const wanted = (1n << 12n) | (1n << 21n)
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'
  return process.getuid?.() === 0 && (BigInt(`0x${effective}`) & wanted) === wanted
}
