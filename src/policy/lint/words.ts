// Words that YAML 1.1, which kubectl and most tools of Kubernetes read, takes for something else than YAML 1.2 does, which is read here (NG017).
import type { Field } from '../field.ts'
import { at, entriesOf, fixOf, itemsOf, type Check } from './context.ts'

const booleans = ['y', 'yes', 'on', 'n', 'no', 'off']
const isBoolean = (text: string): boolean =>
  text.length <= 3 &&
  booleans.includes(text.toLowerCase()) &&
  (text.slice(1) === text.slice(1).toLowerCase() || text === text.toUpperCase())
/** `1_000`, and `0b1`. */
const isNumber = (text: string): boolean =>
  text[0] !== undefined &&
  text[0] >= '0' &&
  text[0] <= '9' &&
  text.includes('_') &&
  !Number.isNaN(Number(text.replaceAll('_', '')))

/** NG017: bare words that are no text to kubectl. */
const bareWords: Check = (context, say) => {
  for (const spec of context.specs) {
    const walk = (field: Field): void => {
      if (field.kind !== 'scalar') {
        for (const child of field.kind === 'map' ? entriesOf(field).map(([, entry]) => entry) : itemsOf(field))
          walk(child)
        return
      }
      if (typeof field.value !== 'string') return
      const what = isBoolean(field.value) ? 'a boolean' : isNumber(field.value) ? 'a number' : undefined
      if (what === undefined || context.sources.written(field) !== field.value) return
      say('NG017', spec, field, {
        severity: 'warning',
        message: `to kubectl ${field.value} without quotes is ${what} (YAML 1.1): it is refused where text is wanted`,
        fix: fixOf('quote it', context.sources.replaceValue(field, JSON.stringify(field.value))),
      })
    }
    for (const key of ['labels', 'annotations']) {
      const part = at(spec.object, 'metadata', key)
      if (part !== undefined) walk(part)
    }
    walk(spec.field)
  }
}

export const wordChecks: readonly Check[] = [bareWords]
