import { expect, test } from 'vitest'
import { ServerMetrics } from './server-metrics.ts'
import { createStatusPage } from './status-page.ts'

const MIB = 2 ** 20
const READ = 0

function fixture() {
  const metrics = new ServerMetrics()
  let time = 0
  const page = createStatusPage(
    metrics,
    () => 'ready',
    () => time,
  )
  const html = (at: number) => {
    time = at * 1000
    return [...page().body].join('')
  }
  /** Cells of the row of an export. */
  const cells = (text: string, name: string) =>
    new RegExp(`<tr><td>${name}</td>(.*)</tr>`)
      .exec(text)?.[1]
      ?.split('</td>')
      .map(cell => cell.replace('<td>', ''))
      .slice(0, -1)
  return { metrics, html, cells }
}

test('It tells connections, totals, and rates since the look before', () => {
  const { metrics, html, cells } = fixture()
  const meter = metrics.exports.of('alice')
  meter.connections = 2
  meter.readBytes = 10 * MIB
  meter.command(READ).seconds.observe(0.001)
  expect(cells(html(10), 'alice')).toEqual(['2', '10.0 MiB', '0 B', '1.0 MiB', '0 B', '0.1'])
  meter.readBytes += 5 * MIB
  meter.writtenBytes = 512
  expect(cells(html(15), 'alice')).toEqual(['2', '15.0 MiB', '512 B', '1.0 MiB', '102 B', '0.0'])
  expect(cells(html(20), 'alice')).toEqual(['2', '15.0 MiB', '512 B', '0 B', '0 B', '0.0'])
})

test('Two who look at the same time see rates of seconds, not of moments', () => {
  const { metrics, html, cells } = fixture()
  html(5)
  metrics.exports.of('alice').readBytes = 10 * MIB
  html(10)
  expect(cells(html(10.1), 'alice')?.[3]).toBe('2.0 MiB')
})

test('No name of an export is markup', () => {
  const { metrics, html } = fixture()
  metrics.exports.of(`<script>alert("1")</script>&'`)
  const text = html(1)
  expect(text).not.toContain('<script')
  expect(text).toContain('&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;')
})

test('It loads itself anew, and nothing from elsewhere', () => {
  const text = fixture().html(1)
  expect(text).toContain('<meta http-equiv="refresh" content="5">')
  expect(text).toContain(`default-src 'none'`)
  expect(text.match(/(?:src|href)="[^"]*"/g)).toEqual(['href="/metrics"'])
})
