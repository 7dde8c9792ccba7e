// Labels by Kubernetes' syntax (labels and selectors: syntax and character set).
import { expect, test } from 'vitest'
import { labelFromText } from '../../../src/run/labels.ts'

const good = ['app=x', 'app=', 'example.com/app.kubernetes_io-x=V1.2_3-b', `${'k'.repeat(63)}=${'v'.repeat(63)}`, 'A=0']
for (const text of good) test(text, () => expect(labelFromText(text)).toEqual(text.split('=')))

const bad = [
  ['app', /KEY=VALUE/],
  ['=x', /KEY=VALUE/],
  ['a=b=c', /"b=c" is no label value/],
  ['app=-x', /"-x" is no label value/],
  ['app=x y', /"x y"/],
  ['k8s:app=x', /"k8s:app" is no label key/],
  ['Example.com/app=x', /"Example\.com" before the slash/],
  ['/app=x', /"" before the slash/],
  ['a/b/c=x', /"b\/c" is no label key/],
  [`${'k'.repeat(64)}=x`, /1 to 63/],
  [`app=${'v'.repeat(64)}`, /1 to 63/],
] as const
for (const [text, fault] of bad) test(text, () => expect(labelFromText(text)).toEqual({ fault: expect.stringMatching(fault) as string })) // prettier-ignore
