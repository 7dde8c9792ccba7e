// Where system programs are found.

/**
 * The environment to start nft, ip and their like in: they live in sbin, which the PATH of users other than root, of cron and of many
 * services does not name. What the user named comes first.
 */
export function systemEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH'] ?? '/usr/bin:/bin'}:/usr/sbin:/sbin` }
}
