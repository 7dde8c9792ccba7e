// Checks about names: toFQDNs and their DNS rules (NG001), what stars stand for (NG010), refused names and search domains (NG016).
import { Protocol } from '../../net/ports.ts'
import type { Field } from '../field.ts'
import type { DnsRule, NameMatch, Peer, Policy, Rule } from '../rules.ts'
import {
  at,
  entriesOf,
  fixOf,
  isCilium,
  isOrdered,
  itemsOf,
  itemsOfSpec,
  listed,
  rulesOf,
  textOf,
  type Check,
  type Context,
  type Spec,
} from './context.ts'
import { hasPort, nameCovers } from './coverage.ts'

type NamePeer = Peer & { readonly kind: 'name' }

const namesOf = (rule: Rule): readonly NamePeer[] =>
  rule.peers === 'everyone' ? [] : rule.peers.filter((peer): peer is NamePeer => peer.kind === 'name')

/** The DNS rules that hold for all that the policy is about. */
function dnsRulesFor(
  context: Context,
  policy: Policy,
): { readonly names: readonly DnsRule[]; readonly plain: boolean } {
  const names: DnsRule[] = []
  let plain = false
  for (const rule of context.around(policy).flatMap((other) => rulesOf(other, 'egress'))) {
    if (rule.kind !== 'allow' || namesOf(rule).length > 0) continue
    if (rule.l7?.kind === 'dns') names.push(...rule.l7.rules)
    else if (hasPort(rule, 53, [Protocol.UDP])) plain = true
  }
  return { names, plain }
}

/** A DNS rule for these names, as lines of a list item. */
const dnsItem = (names: readonly NameMatch[]): readonly string[] => [
  'toEndpoints:',
  '- matchLabels:',
  '    k8s:io.kubernetes.pod.namespace: kube-system',
  '    k8s:k8s-app: kube-dns',
  'toPorts:',
  '- ports:',
  '  - port: "53"',
  '    protocol: ANY',
  '  rules:',
  '    dns:',
  ...names.map(({ field, text }) => `    - ${field}: ${JSON.stringify(text)}`),
]

/** NG001. Where the Kubernetes kinds name domains, DNS is somebody else's business by their specification. */
const missingDns: Check = (context, say) => {
  for (const spec of context.specs) {
    const granted = rulesOf(spec.policy, 'egress').filter((rule) => rule.kind === 'allow')
    const names = isCilium(spec) ? granted.flatMap(namesOf) : []
    if (names.length === 0 || spec.policy === undefined) continue
    const { names: asked, plain } = dnsRulesFor(context, spec.policy)
    const missing = distinct(names.filter((name) => !asked.some((rule) => nameCovers(rule, name))))
    const [first] = missing
    if (first === undefined) continue
    const list = at(spec.field, 'egress')
    say('NG001', spec, context.fieldAt(spec, first.path), {
      severity: 'warning',
      message: `no DNS rule lets ${listed(missing.map(({ text }) => text))} be asked; Cilium learns the addresses of a name only from answers that pass its DNS proxy, so there the rule allows nothing`,
      hint: `${plain ? 'port 53 is allowed, but past the proxy: ' : ''}add a rule for port 53 of the cluster DNS with rules.dns (namegate itself lets a name of toFQDNs be asked without one)`,
      fix:
        list === undefined
          ? undefined
          : fixOf('allow these names to be asked of kube-dns', context.sources.insertItem(list, dnsItem(missing))),
    })
  }
}

const distinct = (names: readonly NamePeer[]): NamePeer[] => [
  ...new Map(names.map((name) => [`${name.field} ${name.text}`, name])).values(),
]

/** The patterns of a spec that name domains, with the list that each stands in. */
function patternsOf(
  spec: Spec,
): { readonly field: Field; readonly text: string; readonly siblings: readonly string[] }[] {
  const found: { field: Field; text: string; siblings: readonly string[] }[] = []
  const addList = (items: readonly Field[]): void => {
    const siblings = items.flatMap(
      (item) => textOf(item) ?? textOf(at(item, 'matchName')) ?? textOf(at(item, 'matchPattern')) ?? [],
    )
    for (const item of items) {
      const field = item.kind === 'scalar' ? item : at(item, 'matchPattern')
      const text = textOf(field)
      if (field !== undefined && text !== undefined) found.push({ field, text, siblings })
    }
  }
  for (const { field } of itemsOfSpec(spec)) {
    addList(itemsOf(at(field, 'toFQDNs')))
    for (const item of itemsOf(at(field, 'toPorts'))) addList(itemsOf(at(item, 'rules', 'dns')))
    for (const item of itemsOf(at(field, 'to'))) addList(itemsOf(at(item, 'domainNames')))
  }
  return found
}

/** NG010. */
const wildcards: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field, text, siblings } of patternsOf(spec)) {
      const [first = '', ...rest] = text.split('.')
      const domain = rest.join('.')
      if (!first.includes('*') || domain === '') continue
      if (isOrdered(spec)) {
        say('NG010', spec, field, {
          severity: 'note',
          message: `"${text}" stands for one or more labels here: a.${domain} and a.b.${domain}, but not ${domain}; in a Cilium policy *. is exactly one label`,
        })
        continue
      }
      if (first === '**') {
        if (!context.isCilium(1, 19))
          say('NG010', spec, field, {
            severity: 'warning',
            message: `"${text}": a leading **. is any number of labels since Cilium 1.19 only; before, it is one label`,
            hint: `list the depths that are needed: *.${domain}, *.*.${domain}`,
          })
      } else if (first === '*') {
        const apex = siblings.includes(domain) ? '' : `, nor ${domain} itself`
        say('NG010', spec, field, {
          severity: 'note',
          message: `"${text}" stands for exactly one label: a.${domain}, not a.b.${domain}${apex}`,
          hint: `**.${domain} is one or more labels${apex === '' ? '' : `; matchName: ${domain} adds the name itself`}`,
        })
      } else if (first.startsWith('*'))
        say('NG010', spec, field, {
          severity: 'warning',
          message: `"${text}" matches ${first.replaceAll('*', 'evil-')}.${domain}, which somebody else may own, and not a.${first.replaceAll('*', '')}.${domain}: a star stays within its label`,
          hint: `for what lies under a domain write "*.${first.replaceAll('*', '')}.${domain}"`,
          fix:
            first.lastIndexOf('*') > 0
              ? undefined
              : fixOf('names under the domain', context.sources.replaceScalar(field, `*.${first.slice(1)}.${domain}`)),
        })
    }
}

const replyAnnotation = 'namegate.io/dns-deny-reply'

/** NG016: a resolver with search domains asks `name.ns.svc.cluster.local` first; REFUSED ends the search for some (musl). */
const refusedSearch: Check = (context, say) => {
  const told = new Set<Field>()
  for (const spec of context.specs) {
    const rules = rulesOf(spec.policy, 'egress').filter((rule) => rule.l7?.kind === 'dns')
    const names = rules.flatMap((rule) => (rule.l7?.kind === 'dns' ? rule.l7.rules : []))
    if (names.length === 0 || spec.policy?.denyReply?.otherwise === 'nxdomain' || told.has(spec.object)) continue
    if (names.some(({ pattern }) => pattern.kind === 'any')) continue
    told.add(spec.object)
    const [first] = names
    const annotations = at(spec.object, 'metadata', 'annotations')
    const metadata = at(spec.object, 'metadata')
    const fix =
      annotations !== undefined
        ? entriesOf(annotations).length > 0 &&
          context.sources.insertEntry(annotations, [`${replyAnnotation}: nxdomain`])
        : metadata && context.sources.insertEntry(metadata, ['annotations:', `  ${replyAnnotation}: nxdomain`])
    say('NG016', spec, context.fieldAt(spec, first?.path ?? ''), {
      severity: 'note',
      message:
        'other names are answered REFUSED; pods ask with their search domains first, and some resolvers (musl) end the search there instead of trying the next name',
      hint: `answer NXDOMAIN: annotation ${replyAnnotation}: nxdomain here, tofqdns-dns-reject-response-code: nameError in Cilium; or let applications ask names with a final dot`,
      fix: fix ? fixOf('answer NXDOMAIN', fix) : undefined,
    })
  }
}

export const nameChecks: readonly Check[] = [missingDns, wildcards, refusedSearch]
