import { expect, test } from 'vitest'
import { Slots } from './slots.ts'

const never = new AbortController().signal

test('At most so many hold a slot, and the next in line gets it', async () => {
  const slots = new Slots(2)
  const order: string[] = []
  const [first, second] = [await slots.acquire(never), await slots.acquire(never)]
  const third = slots.acquire(never).then(release => {
    order.push('third')
    return release
  })
  const fourth = slots.acquire(never).then(release => {
    order.push('fourth')
    return release
  })
  await new Promise(setImmediate)
  expect(order).toEqual([])
  second()
  await third
  expect(order).toEqual(['third'])
  first()
  await fourth
  expect(order).toEqual(['third', 'fourth'])
})

test('A slot given back twice is given to one', async () => {
  const slots = new Slots(1)
  const release = await slots.acquire(never)
  release()
  release()
  await slots.acquire(never)
  let entered = false
  slots.acquire(never).then(() => {
    entered = true
  })
  await new Promise(setImmediate)
  expect(entered).toBe(false)
})

test('Who stops waiting leaves the line, and takes no slot', async () => {
  const slots = new Slots(1)
  const release = await slots.acquire(never)
  const controller = new AbortController()
  const quitter = slots.acquire(controller.signal)
  const next = slots.acquire(never)
  controller.abort()
  await expect(quitter).rejects.toMatchObject({ code: 'ECANCELED' })
  release()
  await next
  await expect(slots.acquire(AbortSignal.abort())).rejects.toMatchObject({ code: 'ECANCELED' })
})
