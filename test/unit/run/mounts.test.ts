// Mounts as proc(5) lists them.
import { expect, test } from 'vitest'
import { kernelMounts } from '../../../src/run/mounts.ts'

const mountinfo = [
  '22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw',
  '23 22 0:21 / /proc rw,relatime shared:12 master:3 - proc proc rw',
  '24 23 0:21 /sys /proc/sys ro,relatime - proc proc rw',
  '25 23 0:40 / /proc/sys/fs/binfmt_misc rw shared:16 - binfmt_misc binfmt_misc rw',
  '26 22 0:22 / /sys rw,relatime shared:7 - sysfs sysfs rw',
  '27 26 0:23 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate',
  '28 22 0:50 / /srv/my\\040jail/proc rw - proc proc rw',
  '29 22 0:51 / /home/proc rw - tmpfs proc rw',
  '',
].join('\n')

test('where processes and settings of the kernel are seen, by name, each once', () =>
  expect(kernelMounts(mountinfo)).toEqual({
    processes: ['/proc', '/srv/my jail/proc'],
    settings: ['/proc/sys/fs/binfmt_misc', '/sys', '/sys/fs/cgroup'],
  }))
