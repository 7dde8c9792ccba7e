// Starts the command in its namespace, with a resolver configuration that leads to the proxy, and without the rights to leave.
import { spawn, type ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import type { Namespace } from './namespace.ts'

export interface Launch {
  readonly namespace: Namespace
  readonly command: readonly string[]
  /** The text to be seen as /etc/resolv.conf. */
  readonly resolvConf: string
  /** The user's own IDs, to be had back inside when we are root only of a user namespace. */
  readonly mapBackTo: { readonly uid: number; readonly gid: number } | undefined
}

/** Capabilities that could reach the gate, the kernel or other processes. Raw sockets stay: what they send passes the gate like all else. */
const droppedCapabilities = ['net_admin', 'sys_admin', 'sys_ptrace', 'sys_module', 'sys_rawio', 'sys_boot', 'bpf', 'perfmon', 'mac_admin', 'syslog'] // prettier-ignore

/** Exit status when namegate itself fails before the command starts, as env(1) and docker do. */
export const ownFailure = 125

/**
 * Runs in the workload's mount namespace, as its root: /etc/resolv.conf is what we say, and the sockets of those who would answer names
 * around the proxy are out of sight. Every step is an `exec` in the end, so the command keeps this process's PID. The file lives in a tmpfs
 * that only its bind mount holds on to: nothing of it is ever on the host's disk.
 */
const prepare = `
fail() { echo "namegate: $*; nothing was started" >&2; exit ${ownFailure}; }
target=$(readlink -f /etc/resolv.conf) || target=
for folder in /run/systemd/resolve /run/nscd /var/run/nscd /run/avahi-daemon; do
  if [ -d "$folder" ]; then
    mount -t tmpfs -o size=64k,mode=755 tmpfs "$folder" || fail "cannot hide $folder"
    case $target in "$folder"/*) : > "$target";; esac
  fi
done
[ -e "$target" ] || fail "there is no /etc/resolv.conf to put another in its place; an empty file will do"
mount -t tmpfs -o size=64k,mode=755 tmpfs /tmp && printf %s "$NAMEGATE_RESOLV_CONF" > /tmp/resolv.conf &&
  mount --bind /tmp/resolv.conf "$target" && umount --lazy /tmp || fail "cannot put another /etc/resolv.conf in its place"
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
    ...['sh', '-c', prepare, 'namegate', ...nested],
    // Should we be killed, the command ends too: it would be behind a gate that is gone.
    ...['setpriv', '--pdeathsig', 'KILL', ...drop, '--', ...command],
  ]
  const [program = '', ...args] = argv
  return spawn(program, args, { stdio: 'inherit', env: { ...process.env, NAMEGATE_RESOLV_CONF: resolvConf } })
}

const forwarded = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGCONT', 'SIGWINCH'] as const
/** Those that a command which does not handle them dies of. */
const fatal: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']

/** How a child process ended. */
export type Ending =
  | { readonly kind: 'exit'; readonly status: number }
  | { readonly kind: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly kind: 'error'; readonly error: Error }

/** Signals that are sent to us are meant for the command, from our start to our end. */
export interface Signals {
  /** One that the command would have died of, and that came before there was a command. */
  readonly early: () => NodeJS.Signals | undefined
  /** Passes signals on to the child until it ends. */
  readonly supervise: (child: ChildProcess) => Promise<Ending>
}

/**
 * Takes the signals over: what we changed on the host is taken back before we end, whenever they come. Ctrl-C at a terminal reaches the
 * child by itself, being in the same process group.
 */
export function takeSignals(): Signals {
  const atTerminal = process.stdin.isTTY || process.stdout.isTTY
  let child: ChildProcess | undefined
  let started = false
  let early: NodeJS.Signals | undefined
  for (const signal of forwarded) {
    const fromTerminal = atTerminal && (signal === 'SIGINT' || signal === 'SIGQUIT' || signal === 'SIGWINCH')
    process.on(signal, () => {
      if (!started && fatal.includes(signal)) early ??= signal
      if (!fromTerminal) child?.kill(signal)
    })
  }
  async function supervise(its: ChildProcess): Promise<Ending> {
    child = its
    started = true
    const ending = await new Promise<Ending>((resolve) => {
      its.once('error', (error) => resolve({ kind: 'error', error }))
      its.once('exit', (status, signal) =>
        resolve(signal === null ? { kind: 'exit', status: status ?? 0 } : { kind: 'signal', signal }),
      )
    })
    child = undefined
    return ending
  }
  return { early: () => early, supervise }
}

/** Ends this process as the child ended: with its status, or by the same signal. */
export function endLike(ending: Ending): never {
  if (ending.kind === 'exit') process.exit(ending.status)
  if (ending.kind === 'error') {
    process.stderr.write(`namegate: ${ending.error.message}\n`)
    process.exit(ownFailure)
  }
  process.removeAllListeners(ending.signal)
  process.kill(process.pid, ending.signal)
  // A signal that does not end us (ignored by whoever started us) is told as shells do.
  process.exit(128 + constants.signals[ending.signal])
}
