// Starts the command in its namespace, with a resolver configuration that leads to the proxy, and without the rights to leave.
import { spawn, type ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import type { Namespace } from './namespace.ts'

export interface Launch {
  readonly namespace: Namespace
  readonly command: readonly string[]
  /** A file to be seen as /etc/resolv.conf. */
  readonly resolvConf: string
  /** The user's own IDs, to be had back inside when we are root only of a user namespace. */
  readonly mapBackTo: { readonly uid: number; readonly gid: number } | undefined
}

/** Capabilities that could reach the gate, the kernel or other processes. Raw sockets stay: what they send passes the gate like all else. */
const droppedCapabilities = ['net_admin', 'sys_admin', 'sys_ptrace', 'sys_module', 'sys_rawio', 'sys_boot', 'bpf', 'perfmon', 'mac_admin', 'syslog'] // prettier-ignore

/**
 * Runs in the workload's mount namespace, as its root: /etc/resolv.conf is what we say, and the sockets of systemd-resolved and nscd, which
 * would answer names around the proxy, are out of sight. Every step is an `exec` in the end, so the command keeps this process's PID.
 */
const prepare = `
target=$(readlink -f /etc/resolv.conf || true)
for folder in /run/systemd/resolve /run/nscd /var/run/nscd; do
  if [ -d "$folder" ]; then mount -t tmpfs -o size=64k,mode=755 tmpfs "$folder"; fi
done
if [ -n "$target" ]; then
  if [ ! -e "$target" ]; then mkdir -p "$(dirname "$target")" && : > "$target"; fi
  mount --bind "$NAMEGATE_RESOLV_CONF" "$target"
fi
unset NAMEGATE_RESOLV_CONF
exec "$@"
`

/** Starts it. `exit` of the child process tells the end; 127 and 126 mean that there was no such command, or none to execute. */
export function launch({ namespace, command, resolvConf, mapBackTo }: Launch): ChildProcess {
  const nested =
    mapBackTo === undefined ? [] : ['unshare', '--user', `--map-user=${mapBackTo.uid}`, `--map-group=${mapBackTo.gid}`]
  const drop =
    mapBackTo === undefined ? ['--bounding-set', droppedCapabilities.map((name) => `-${name}`).join(',')] : []
  const argv = [
    ...['nsenter', `--net=${namespace.path}`, 'unshare', '--mount', '--propagation', 'private'],
    ...['sh', '-e', '-c', prepare, 'namegate', ...nested],
    // Should we be killed, the command ends too: it would be behind a gate that is gone.
    ...['setpriv', '--pdeathsig', 'KILL', ...drop, '--', ...command],
  ]
  const [program = '', ...args] = argv
  return spawn(program, args, { stdio: 'inherit', env: { ...process.env, NAMEGATE_RESOLV_CONF: resolvConf } })
}

const forwarded = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGCONT', 'SIGWINCH'] as const

/** How a child process ended. */
export type Ending =
  | { readonly kind: 'exit'; readonly status: number }
  | { readonly kind: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly kind: 'error'; readonly error: Error }

/** Passes our signals on to the child until it ends. Ctrl-C at a terminal reaches it by itself, being in the same process group. */
export async function supervise(child: ChildProcess): Promise<Ending> {
  const atTerminal = process.stdin.isTTY || process.stdout.isTTY
  const handlers = forwarded.map((signal) => {
    const fromTerminal = atTerminal && (signal === 'SIGINT' || signal === 'SIGQUIT' || signal === 'SIGWINCH')
    const handler = (): void => void (fromTerminal || child.kill(signal))
    process.on(signal, handler)
    return { signal, handler }
  })
  const ending = await new Promise<Ending>((resolve) => {
    child.once('error', (error) => resolve({ kind: 'error', error }))
    child.once('exit', (status, signal) =>
      resolve(signal === null ? { kind: 'exit', status: status ?? 0 } : { kind: 'signal', signal }),
    )
  })
  for (const { signal, handler } of handlers) process.removeListener(signal, handler)
  return ending
}

/** Ends this process as the child ended: with its status, or by the same signal. */
export function endLike(ending: Ending): never {
  if (ending.kind === 'exit') process.exit(ending.status)
  if (ending.kind === 'error') process.exit(125)
  process.kill(process.pid, ending.signal)
  // A signal that does not end us (ignored by whoever started us) is told as shells do.
  process.exit(128 + constants.signals[ending.signal])
}
