// proc(5) mountinfo: through which mounts a process gets at the kernel and at other processes.

/** Mount points, in the order in which they were mounted. */
export interface KernelMounts {
  /** Where processes are seen: `/proc`, and that of any chroot. */
  readonly processes: readonly string[]
  /** Where root writes settings of the kernel as a whole, which no namespace holds apart. */
  readonly settings: readonly string[]
}

const settings = ['sysfs', 'debugfs', 'tracefs', 'securityfs', 'configfs', 'efivarfs', 'pstore', 'cgroup', 'cgroup2', 'binfmt_misc', 'bpf'] // prettier-ignore

/** Reads /proc/self/mountinfo. */
export function kernelMounts(mountinfo: string): KernelMounts {
  const mounts = mountinfo
    .split('\n')
    .map((row) => row.split(' '))
    // ID, parent, device, root, mount point, options, optional fields …, `-`, type, source, options
    .map((fields) => ({ point: unescape(fields[4] ?? ''), type: fields[fields.indexOf('-', 6) + 1] ?? '' }))
  const pointsOf = (types: readonly string[]): string[] => [
    // A read-only corner of /proc is a mount of its own, of the same type.
    ...new Set(mounts.filter(({ type }) => types.includes(type)).map(({ point }) => point)),
  ]
  return {
    processes: pointsOf(['proc']).filter((point, _, all) => !all.some((other) => point.startsWith(`${other}/`))),
    settings: pointsOf(settings),
  }
}

/** Blanks, tabs, newlines and backslashes stand as octal numbers. */
const unescape = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
