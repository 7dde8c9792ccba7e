// Starts the command in namespaces of its own, with a resolver configuration that leads to the proxy, and without the rights to leave.
import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { systemEnvironment } from '../datapath/programs.ts'
import { kernelMounts } from './mounts.ts'
import { workerIn, type Namespace } from './namespace.ts'
import { endingOf, type Family } from './parent.ts'

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

/** Corners of /proc that are the kernel's as a whole, not a process's: whoever is root writes there without any capability. */
const kernelCorners = ['sys/*', 'sysrq-trigger', 'irq', 'bus', 'fs', 'acpi', 'scsi'].map((corner) => `/proc/${corner}`)

/**
 * PID 1, first as root of the command's mounts:
 *   - /etc/resolv.conf is what we say, and the sockets of those who would answer names around the proxy are out of sight. The file lives in
 *     a tmpfs that only its bind mount holds on to: nothing of it is ever on the host's disk;
 *   - /proc shows the command's own processes. Where a container hides parts of it, the kernel gives no new one to root of a user
 *     namespace; the old one shows more processes, but none that could be reached by its number;
 *   - what sets the kernel is read only: core_pattern and its like start programs outside.
 * Then without rights, as the command, since root may do as PID 1 whatever it may do to PID 1: takes in orphans until its stdin ends.
 */
const init = `
fail() { echo "namegate: $*; nothing was started" >&2; exit ${ownFailure}; }
lines() { while IFS= read -r point; do if [ -n "$point" ]; then "$@" "$point"; fi; done; }
mount --make-rprivate / || fail "cannot keep mounts to ourselves"
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

is_mounted() { [ "$(stat -c %d "$1" 2>/dev/null)" != "$(stat -c %d "$1/.." 2>/dev/null)" ]; }
read_only() {
  # Where another mount lies over it, it is out of reach.
  mount -o remount,bind,ro "$1" 2>/dev/null || [ -n "$NAMEGATE_MAPPED" ] || ! is_mounted "$1" || fail "cannot make $1 read only"
}
lines read_only <<EOF
$NAMEGATE_SETTINGS
EOF
mount -t proc -o nosuid,nodev,noexec proc /proc 2>/dev/null || [ -n "$NAMEGATE_MAPPED" ] || fail "cannot mount a /proc of its own"
for corner in ${kernelCorners.join(' ')}; do
  # sys/net is the settings of whichever network asks for it: the command's own.
  if [ "$corner" != /proc/sys/net ] && [ -e "$corner" ] && mount --rbind "$corner" "$corner" 2>/dev/null; then read_only "$corner"; fi
done
for file in /proc/sys/kernel/core_pattern /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger /sys/kernel/uevent_helper; do
  [ ! -w "$file" ] || fail "cannot make $file read only"
done
same_proc() { if [ "$1" != /proc ] && [ -e "$1/self" ]; then mount --rbind /proc "$1" || fail "cannot hide $1"; fi; }
lines same_proc <<EOF
$NAMEGATE_PROCESSES
EOF
echo ready
unset NAMEGATE_RESOLV_CONF NAMEGATE_SETTINGS NAMEGATE_PROCESSES NAMEGATE_MAPPED
exec "$@" sh -c 'exec 3<&0 >/dev/null 2>&1; cd /; while :; do cat <&3 & wait $! && exit; done'
`

/** A command that is being started, or runs, or has ended. */
export interface Started {
  readonly kill: (signal: NodeJS.Signals) => void
  /** 127 and 126 mean that there was no such command, or none to execute. */
  readonly ended: Promise<Ending>
}

/** Starts it. When it ends, so does everything that it started: the gate that all of it is behind goes. */
export function launch({ namespace, command, resolvConf, mapBackTo }: Launch): Started {
  const nested =
    mapBackTo === undefined ? [] : ['unshare', '--user', `--map-user=${mapBackTo.uid}`, `--map-group=${mapBackTo.gid}`]
  const drop =
    mapBackTo === undefined ? ['--bounding-set', droppedCapabilities.map((name) => `-${name}`).join(',')] : []
  // Should we be killed, they end too.
  const tied = ['setpriv', '--pdeathsig', 'KILL']
  const { processes, settings } = kernelMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  const family: Family = {
    init: [...tied, 'sh', '-c', init, 'namegate', ...tied, ...drop, '--'],
    initEnvironment: {
      ...systemEnvironment(),
      NAMEGATE_RESOLV_CONF: resolvConf,
      NAMEGATE_SETTINGS: settings.join('\n'),
      NAMEGATE_PROCESSES: processes.join('\n'),
      NAMEGATE_MAPPED: mapBackTo === undefined ? '' : 'yes',
    },
    command: [...nested, ...tied, ...drop, '--', ...command],
    directory: process.cwd(),
  }
  const parent = workerIn(namespace, new URL('parent.ts', import.meta.url), family)
  return {
    kill: (signal) => parent.postMessage(signal),
    ended: new Promise((resolve) => {
      parent.once('message', resolve)
      parent.once('error', (error: Error) => resolve({ kind: 'error', message: error.message }))
    }),
  }
}

/** A child process of this thread as something started. */
export function startedChild(child: ChildProcess): Started {
  return { kill: (signal) => void child.kill(signal), ended: endingOf(child) }
}

const forwarded = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGCONT', 'SIGWINCH'] as const
/** Those that a command which does not handle them dies of. */
const fatal: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']

/** How a child process ended. */
export type Ending =
  | { readonly kind: 'exit'; readonly status: number }
  | { readonly kind: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly kind: 'error'; readonly message: string }

/** Signals that are sent to us are meant for the command, from our start to our end. */
export interface Signals {
  /** One that the command would have died of, and that came before there was a command. */
  readonly early: () => NodeJS.Signals | undefined
  /** Passes signals on until it ends. */
  readonly supervise: (started: Started) => Promise<Ending>
}

/**
 * Takes the signals over: what we changed on the host is taken back before we end, whenever they come. Ctrl-C at a terminal reaches the
 * child by itself, being in the same process group.
 */
export function takeSignals(): Signals {
  const atTerminal = process.stdin.isTTY || process.stdout.isTTY
  let current: Started | undefined
  let hadOne = false
  let early: NodeJS.Signals | undefined
  for (const signal of forwarded) {
    const fromTerminal = atTerminal && (signal === 'SIGINT' || signal === 'SIGQUIT' || signal === 'SIGWINCH')
    process.on(signal, () => {
      if (!hadOne && fatal.includes(signal)) early ??= signal
      if (!fromTerminal) current?.kill(signal)
    })
  }
  async function supervise(started: Started): Promise<Ending> {
    current = started
    hadOne = true
    const ending = await started.ended
    current = undefined
    return ending
  }
  return { early: () => early, supervise }
}

/** Ends this process as the child ended: with its status, or by the same signal. */
export function endLike(ending: Ending): never {
  if (ending.kind === 'exit') process.exit(ending.status)
  if (ending.kind === 'error') {
    process.stderr.write(`namegate: ${ending.message}\n`)
    process.exit(ownFailure)
  }
  process.removeAllListeners(ending.signal)
  process.kill(process.pid, ending.signal)
  // A signal that does not end us (ignored by whoever started us) is told as shells do.
  process.exit(128 + constants.signals[ending.signal])
}
