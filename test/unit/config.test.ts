// The configuration file: its defaults, and every way to get it wrong.
import { describe, expect, test } from 'vitest'
import { defaultSettings, parseConfig, serverFromText, serverToText, type Config } from '../../src/config.ts'
import { addressFromText, addressToText } from '../../src/net/address.ts'
import { issueToText } from '../../src/policy/field.ts'

function read(text: string): Config {
  const result = parseConfig(text, 'c.yaml')
  return result.ok ? result.config : expect.fail(result.issues.map(issueToText).join('\n'))
}
function issuesOf(text: string): string[] {
  const result = parseConfig(text, 'c.yaml')
  return result.ok ? [] : result.issues.map((issue) => issueToText(issue).slice('c.yaml:'.length))
}

test('all defaults', () => {
  expect(read('manifests: /etc/namegate')).toEqual({
    manifests: '/etc/namegate',
    journal: '/run/namegate/namegate.leases',
    listeners: [
      { kind: 'address', address: '0.0.0.0', port: 10053 },
      { kind: 'address', address: '::', port: 10053 },
    ],
    upstreams: [],
    hostAddresses: [],
    enforce: 'kernel',
    api: { socket: '/run/namegate/api.sock', address: '127.0.0.1', port: 9653 },
    observe: { logGroup: 4244,
      hubbleMetrics: false, exports: [], capacity: 4095, cluster: 'default', node: expect.any(String) as string, hubble: { listen: [], certificate: undefined, key: undefined, clientCa: undefined } }, // prettier-ignore
    restart: 'standby',
    logLevel: 'info',
    settings: defaultSettings(),
  })
  expect(defaultSettings()).toMatchObject({
    dns: { timeoutMillis: 1000, deadlineMillis: 4000, denyReply: 'refused', unknownEndpoint: 'deny' },
    policy: {
      semantics: 'spec',
      ciliumVersion: [1, 20],
      clusterName: 'default',
      enforcement: 'default',
      allowLocalhost: true,
      audit: false,
      hostPolicies: false,
    },
    leases: {
      graceSeconds: 30,
      ttlMinSeconds: 0,
      ttlMaxSeconds: 604_800,
      addressesPerNameMax: 4096,
      leasesMax: 1e6,
      octetsMax: 2e8,
    },
    datapath: { table: 'namegate', denied: 'drop', interfaces: [], prefixes: [], learnedMax: 1 << 20 },
  })
})

test('where leases are written down', () => {
  const journal = (more: string): string | undefined => read(`manifests: m\n${more}`).journal
  expect(journal('datapath: {table: gate_2}')).toBe('/run/namegate/gate_2.leases')
  expect(journal('leases: {journal: /var/lib/x}')).toBe('/var/lib/x')
  expect(journal('leases: {journal: null}')).toBe(undefined)
})

test('everything said', () => {
  const config = read(`
manifests: m
dns:
  listen: [{address: 127.0.0.1, port: 53}, {address: "::1", port: 53}]
  upstreams: ["10.0.0.10:5353", "[2001:db8::1]:53", 9.9.9.9]
  timeoutMillis: 500
  denyReply: nxdomain
  unknownEndpoint: allow
leases: {graceSeconds: 1, leasesMax: 100, octetsMax: 50000}
datapath: {enforce: none, table: gate_2, denied: reject, interfaces: [veth*, eth0.5], prefixes: [10.1.0.0/16, "fd01::/64"]}
host: {addresses: [10.1.0.1], node: n1}
policy: {semantics: cilium, ciliumVersion: "1.18", clusterName: east, enforcement: always, allowLocalhost: false, audit: true, hostPolicies: true}
api: {socket: null, address: "::1", port: null}
log: {level: debug}
`)
  expect(config).toMatchObject({
    listeners: [{ address: '127.0.0.1', port: 53 }, { address: '::1', port: 53 }],
    hostAddresses: ['10.1.0.1'],
    enforce: 'none',
    api: { socket: undefined, address: '::1', port: undefined },
    logLevel: 'debug',
    settings: {
      dns: { timeoutMillis: 500, deadlineMillis: 4000, denyReply: 'nxdomain', unknownEndpoint: 'allow' },
      leases: { graceSeconds: 1, ttlMaxSeconds: 604_800, leasesMax: 100, octetsMax: 50_000 },
      policy: { semantics: 'cilium', ciliumVersion: [1, 18], clusterName: 'east', enforcement: 'always', allowLocalhost: false, audit: true, hostPolicies: true, localNode: 'n1' },
      datapath: { table: 'gate_2', denied: 'reject', interfaces: ['veth*', 'eth0.5'], learnedMax: 106 },
    },
  }) // prettier-ignore
  expect(config.upstreams.map(serverToText)).toEqual(['10.0.0.10:5353', '[2001:db8::1]:53', '9.9.9.9:53'])
})

const gaps: readonly { readonly text: string; readonly warnings: readonly string[] }[] = [
  { text: 'datapath: {interfaces: [veth*]}', warnings: [] },
  { text: 'datapath: {enforce: none}', warnings: [] },
  { text: 'datapath: {prefixes: [10.0.0.0/8, "fd00::/8"]}', warnings: [] },
  { text: 'log: {level: debug}', warnings: ['1:1: warning: datapath: interfaces and prefixes are empty: packets from addresses that no endpoint has are not held back'] },
  { text: 'datapath: {prefixes: [10.0.0.0/8]}', warnings: ['2:22: warning: datapath.prefixes: has no IPv6 prefix, and there are no interfaces: of IPv6 only what endpoints send and get is forwarded'] },
  { text: 'datapath: {prefixes: ["fd00::/8"]}\ndns: {unknownEndpoint: allow}', warnings: ['2:22: warning: datapath.prefixes: has no IPv4 prefix, and there are no interfaces: IPv4 packets from addresses that no endpoint has are not held back'] },
  { text: 'datapath: {prefixes: [10.0.0.0/8], interfaces: [a]}', warnings: [] },
  { text: 'datapath: {interfaces: [a]}\ndns: {listen: [{address: "::"}]}', warnings: ['3:15: warning: dns.listen: has no IPv4 address: DNS over IPv4 is dropped'] },
  { text: 'datapath: {interfaces: [a]}\nhost: {addresses: [10.0.0.1]}', warnings: ["3:19: warning: host.addresses: has no IPv6 address: those of the interfaces count as this host's"] },
] // prettier-ignore
for (const { text, warnings } of gaps)
  test(`what is left out: ${text}`, () => {
    const result = parseConfig(`manifests: x\n${text}`, 'c.yaml')
    expect(result.ok ? result.warnings.map((one) => issueToText(one).slice('c.yaml:'.length)) : result).toEqual(
      warnings,
    )
  })

const wrong: readonly { readonly text: string; readonly issues: readonly string[] }[] = [
  { text: '', issues: ['1:1: manifests: is required'] },
  { text: '- a', issues: ['1:1: must be a mapping, not a list'] },
  { text: 'manifests:', issues: ['1:11: manifests: must be a string, not nothing'] },
  { text: 'manifests: 5', issues: ['1:12: manifests: must be a string, not 5'] },
  { text: 'manifests: ""', issues: ['1:12: manifests: must not be empty'] },
  { text: 'manifests: x\ndns:', issues: ['2:5: dns: must be a mapping, not nothing'] },
  { text: 'manifests: x\ndns: {listen: []}', issues: ['2:15: dns.listen: must not be empty'] },
  {
    text: 'manifests: x\ndns: {listen: [{address: 10.0.0.1}, {address: "::", port: 54}]}',
    issues: ['2:15: dns.listen: must all have one port: the kernel leads DNS to it'],
  },
  {
    text: 'manifests: x\ndns: {cache: {entries: 2147483647}}',
    issues: ['2:24: dns.cache.entries: must be at most 10000000'],
  },
  {
    text: 'manifests: x\ndatapath: {interfaces: ["*"]}',
    issues: ['2:25: datapath.interfaces[0]: "*" is not an interface name (it may end in *)'],
  },
  { text: 'manifests: x\ndns: {upstreams: 10.0.0.1}', issues: ['2:18: dns.upstreams: must be a list, not a string'] },
  {
    text: 'manifests: x\npolicy: {ciliumVersion: "1.x", audit: 1, semantics: mine, localNode: n1}',
    issues: [
      '2:25: policy.ciliumVersion: "1.x" is not a version such as 1.20',
      '2:39: policy.audit: must be a boolean, not 1',
      '2:53: policy.semantics: must be one of spec, cilium',
      '2:70: policy.localNode: unknown field "localNode"',
    ],
  },
  {
    text: 'manifests: x\ndns: {denyReply: drop}',
    issues: ['2:18: dns.denyReply: must be refused or nxdomain, not "drop"'],
  },
  { text: 'manifests: x\ndns: {timeoutMillis: 1}', issues: ['2:22: dns.timeoutMillis: must be at least 10'] },
  {
    text: 'manifests: x\napi: {port: 65536, socket: ""}',
    issues: ['2:13: api.port: must be at most 65535', '2:28: api.socket: must not be empty'],
  },
  {
    text: 'manifests: x\nleases: {graceSeconds: 1.5}',
    issues: ['2:24: leases.graceSeconds: must be an integer, not 1.5'],
  },
  {
    text: 'manifests: x\nleases: {graceSeconds: 0}',
    issues: ['2:24: leases.graceSeconds: must be at least 1'],
  },
  {
    text: 'manifests: x\nleases: {ttlMinSeconds: 60, ttlMaxSeconds: 5}',
    issues: ['2:25: leases.ttlMinSeconds: is more than ttlMaxSeconds'],
  },
  {
    text: 'manifests: x\napi: {address: 0.0.0.0}',
    issues: ['2:16: api.address: elsewhere than on loopback, tokenFile or tls.clientCa is required'],
  },
  {
    text: 'manifests: x\ndatapath: {table: "a; flush ruleset", interfaces: ["a\\"b"], prefixes: [10.0.0.0/33]}',
    issues: [
      '2:19: datapath.table: "a; flush ruleset" is not a table name (a-z, 0-9, _)',
      '2:52: datapath.interfaces[0]: "a"b" is not an interface name (it may end in *)',
      '2:72: datapath.prefixes[0]: "10.0.0.0/33" is not a prefix such as 10.0.0.0/8',
    ],
  },
  { text: 'manifests: x\ndsn: {}', issues: ['2:6: dsn: unknown field "dsn"; did you mean "dns"?'] },
  { text: 'manifests: x\n__proto__: {}', issues: ['2:12: __proto__: unknown field "__proto__"'] },
  {
    text: 'manifests: x\ndns:\n  listen:\n  - address: 0.0.0.0\n  - address: "::"\n  - {address: ::1, prot: 5}',
    issues: ['6:26: dns.listen[2].prot: unknown field "prot"; did you mean "port"?'],
  },
  {
    text: 'dns: {upstreams: [x], timeoutMillis: fast}\nlog: {level: loud}',
    issues: [
      '1:1: manifests: is required',
      '1:19: dns.upstreams[0]: "x" is not IP:PORT, [IPv6]:PORT or an IP address (in brackets, with its port, where it could be read either way)',
      '1:38: dns.timeoutMillis: must be a number, not a string',
      '2:14: log.level: must be one of trace, debug, info, warn, error, fatal, silent',
    ],
  },
  {
    text: 'manifests: *there\nhost: *here',
    issues: ['1:12: there is no anchor "there" before this alias', '2:7: there is no anchor "here" before this alias'],
  },
  { text: 'manifests: x\nmanifests: y', issues: ['2:1: Map keys must be unique'] },
]
describe('wrong, with its place', () => {
  for (const { text, issues } of wrong) test(JSON.stringify(text), () => expect(issuesOf(text)).toEqual(issues))

  test('YAML that cannot be read', () => {
    expect(issuesOf('dns: [')[0]).toMatch(/^1:7: /)
    expect(issuesOf('manifests: x\n---\nmanifests: y')[0]).toMatch(/^2:1: .*multiple documents/)
  })

  test('aliases that unfold without end', () => {
    const bomb = ['a0: &a0 [x]', ...Array.from({ length: 20 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i}, `.repeat(10)}]`)] // prettier-ignore
    expect(issuesOf(bomb.join('\n'))).toEqual([expect.stringMatching(/alias/i)])
  })
})

test('aliases that stand for something are read', () => {
  expect(read('manifests: &m x\napi: {socket: *m}').api.socket).toBe('x')
})

describe('IP:PORT', () => {
  const good: readonly (readonly [text: string, address: string, port: number])[] = [
    ['10.0.0.10:53', '10.0.0.10', 53],
    ['10.0.0.10', '10.0.0.10', 53],
    ['[2001:db8::1]:5353', '2001:db8::1', 5353],
    ['2001:db8::1', '2001:db8::1', 53],
    ['2001:db8:0:0:0:0:1:53', '2001:db8::1:53', 53],
    ['fd00::1:abcd', 'fd00::1:abcd', 53],
    ['[::1:53]:53', '::1:53', 53],
    ['1.2.3.4:65535', '1.2.3.4', 65_535],
  ]
  for (const [text, address, port] of good)
    test(text, () => {
      const server = serverFromText(text) ?? expect.fail('not read')
      expect([addressToText(server.address), server.port]).toEqual([address, port])
    })
  const bad = ['', ':53', '1.2.3.4:', '1.2.3.4:0', '1.2.3.4:65536', '1.2.3.4:5x', '1.2.3.4:-1', ' 1.2.3.4:53', '1.2.3:53', 'dns.example:53', '[::1]', '::1:53', '2001:db8::1:5353', '::1]:53', '[::1]53', '1.2.3.4:53:53', 'fe80::1%eth0', '[fe80::1%eth0]:53', '1.2.3.4%x:53'] // prettier-ignore
  for (const text of bad) test(`not "${text}"`, () => expect(serverFromText(text)).toBeUndefined())

  test('text and back', () => {
    for (const text of ['10.0.0.10:53', '[2001:db8::1]:53'])
      expect(serverToText(serverFromText(text) ?? { address: addressFromText('0.0.0.0') as never, port: 1 })).toBe(text)
  })
})

test('upstreams over TCP and TLS, and routes', () => {
  const { upstreams, settings } = read(`
manifests: m
dns:
  upstreams:
    - {address: 9.9.9.9, transport: tls, serverName: dns.quad9.net}
    - {address: "10.0.0.1:5353", transport: tcp}
  hedgeMillis: 100
  routes:
    - {suffixes: [cluster.local, 10.in-addr.arpa], upstreams: [10.96.0.10]}
`)
  expect(upstreams).toMatchObject([
    { port: 853, transport: 'tls', serverName: 'dns.quad9.net' },
    { port: 5353, transport: 'tcp' },
  ])
  expect(settings.dns).toMatchObject({ hedgeMillis: 100, routes: [{ suffixes: ['cluster.local', '10.in-addr.arpa'] }] })
})
test('an upstream’s mapping says what is wrong in it', () => {
  const result = parseConfig('manifests: m\ndns: {upstreams: [{address: x, transport: doq}]}', 'f')
  expect(result.ok ? '' : result.issues[0]?.message).toMatch(
    /^address: "x" is not IP:PORT.*; transport: must be one of/,
  )
})
test('audit mode of some workloads', () => {
  const read = (text: string): unknown => {
    const result = parseConfig(`manifests: /m\npolicy: {auditEndpoints: ${text}}`, 'c.yaml')
    return result.ok ? result.config.settings.policy.auditEndpoints : result.issues.map(({ path, message }) => `${path}: ${message}`)
  }
  expect(read('[{namespace: shop}, {labels: {app: web, pod-template-hash: x}}]')).toEqual([
    [{ operator: 'In', key: 'k8s:io.kubernetes.pod.namespace', values: ['shop'] }],
    [{ operator: 'In', key: 'k8s:app', values: ['web'] }, { operator: 'In', key: 'pod:pod-template-hash', values: ['x'] }],
  ])
  expect(read('[{}]')).toEqual(['policy.auditEndpoints[0]: must have a namespace or labels; all of them are policy.audit'])
  expect(read('[{label: {app: web}}]')).toContain('policy.auditEndpoints[0].label: unknown field "label"')
}) // prettier-ignore
describe('the API', () => {
  const said = (text: string): unknown => {
    const result = parseConfig(`manifests: /m\nhost: {addresses: []}\ndatapath: {interfaces: [veth*]}\napi: ${text}`, 'c.yaml')
    return result.ok ? [result.config.api.address, ...result.warnings.map(({ path, message }) => `${path}: ${message}`)] : result.issues.map(({ message }) => message)
  }
  const guard = 'elsewhere than on loopback, tokenFile or tls.clientCa is required'
  const rows: readonly (readonly [text: string, said: readonly string[]])[] = [
    ['{address: 127.0.0.2}', ['127.0.0.2']],
    ['{address: "::1"}', ['::1']],
    ['{address: 10.0.0.1}', [guard]],
    ['{address: "::"}', [guard]],
    ['{address: "::ffff:127.0.0.1"}', [guard]],
    ['{address: 10.0.0.1, port: null}', ['10.0.0.1']],
    ['{address: 10.0.0.1, tls: {certificate: c, key: k}}', [guard]],
    ['{address: 10.0.0.1, tls: {certificate: c, key: k, clientCa: a}}', ['10.0.0.1']],
    ['{address: 10.0.0.1, tls: {certificate: c, key: k}, tokenFile: t}', ['10.0.0.1']],
    ['{address: 10.0.0.1, tokenFile: t}', ['10.0.0.1', 'api.tokenFile: goes over the network in clear text: api.tls is missing']],
    ['{tokenFile: t}', ['127.0.0.1']],
  ]
  for (const [text, want] of rows) test(text, () => expect(said(text)).toEqual(want))
}) // prettier-ignore
describe('observe', () => {
  test('Hubble is served on loopback, on a unix socket, and elsewhere only to clients with a certificate', () => {
    const hubble = (text: string): unknown => {
      const result = parseConfig(`manifests: /m\nobserve: {hubble: ${text}}`, 'c.yaml')
      return result.ok ? result.config.observe.hubble.listen : result.issues.map(({ message }) => message)
    }
    expect(hubble('{listen: ["unix:/run/namegate/hubble.sock", "127.0.0.1:4244", "[::1]:4244"]}')).toHaveLength(3)
    expect(hubble('{listen: ["0.0.0.0:4244"]}')).toEqual(['elsewhere than on loopback or a unix socket, tls.clientCa is required']) // prettier-ignore
    expect(hubble('{listen: ["0.0.0.0:4244"], tls: {certificate: c, key: k}}')).toEqual(['elsewhere than on loopback or a unix socket, tls.clientCa is required']) // prettier-ignore
    expect(hubble('{listen: ["0.0.0.0:4244"], tls: {certificate: c, key: k, clientCa: a}}')).toEqual(['0.0.0.0:4244'])
    expect(hubble('{listen: ["localhost:4244"]}')).toEqual(['"localhost:4244" is not unix:/PATH or ADDRESS:PORT'])
  })
  test('exports: filters are checked, files are their own', () => {
    const said = (text: string): unknown => {
      const result = parseConfig(`manifests: /m\nobserve: {export: ${text}}`, 'c.yaml')
      return result.ok ? result.config.observe.exports : result.issues.map(({ path, message }) => `${path}: ${message}`)
    }
    expect(said('[{file: f}]')).toEqual([{ file: 'f', sizeOctetsMax: 10_000_000, filesMax: 5, allow: [], deny: [], fields: [] }])
    expect(said('[{file: f, allow: [{verdict: [DROPPED]}], deny: [{source_pod: [kube-system/]}], fields: [time, verdict], megabytesMax: 0.5, filesMax: 1}]')).toMatchObject([{ sizeOctetsMax: 500_000, filesMax: 1, fields: ['time', 'verdict'] }])
    expect(said('[{file: f, allow: [{verdct: [DROPPED]}], deny: [{dns_query: ["("]}]}]')).toEqual(['observe.export[0].allow: there is no filter "verdct"', expect.stringMatching(/^observe\.export\[0\]\.deny: .*missing closing/)])
    expect(said('[{file: f}, {file: f}]')).toEqual(['observe.export: must all have files of their own'])
    expect(said('[{file: f, filesMax: 0, size: 3}]')).toEqual(['observe.export[0].filesMax: must be at least 1', 'observe.export[0].size: unknown field "size"'])
  }) // prettier-ignore
  test('a collector: its URL, headers and filters are checked', () => {
    const said = (text: string): unknown => {
      const result = parseConfig(`manifests: /m\nobserve: {otlp: ${text}}`, 'c.yaml')
      return result.ok ? result.config.observe.otlp : result.issues.map(({ path, message }) => `${path}: ${message}`)
    }
    const url = 'http://127.0.0.1:4318/v1/logs'
    expect(said(`{url: "${url}"}`)).toEqual({ url, headers: {}, allow: [], deny: [] })
    expect(said(`{url: "${url}", headers: {authorization: Bearer x}, deny: [{verdict: [FORWARDED]}]}`)).toMatchObject({ headers: { authorization: 'Bearer x' } })
    expect(said('{url: "127.0.0.1:4318"}')).toEqual(['observe.otlp.url: "127.0.0.1:4318" is not a URL such as http://127.0.0.1:4318/v1/logs'])
    expect(said(`{url: "${url}", headers: {"a b": c}, allow: [{verdct: [DROPPED]}]}`)).toEqual(['observe.otlp.headers.a b: is no HTTP header', 'observe.otlp.allow: there is no filter "verdct"'])
    expect(said('{headers: {}}')).toEqual(['observe.otlp.url: is required'])
  }) // prettier-ignore
  test('the ring holds 2^n-1 flows', () => {
    const result = parseConfig('manifests: /m\nobserve: {flows: 4096}', 'c.yaml')
    expect(result.ok ? [] : result.issues.map(({ message }) => message)).toEqual(['must be 2^n-1 and at most 65535'])
  })
})
