// Charts over time. The numbers are in a table, too, for those who cannot see them.
import 'uplot/dist/uPlot.min.css'
import { useEffect, useRef } from 'preact/hooks'
import uPlot from 'uplot'

/** A line of a chart. */
export interface Series {
  label: string
  /** A custom property of style.css. */
  colour: string
  values: (number | null)[]
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const day = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' })
const wholeDay = 86_400
/** Times of an axis, s since 1970, `apart` from each other. */
const write = (ticks: number[], apart: number) =>
  ticks.map((tick) => (apart >= wholeDay ? day : clock).format(new Date(tick * 1_000)))

/**
 * Lines over points in time.
 *
 * @param least what the axis shows at least, so that small amounts look small
 */
export function Chart({
  title,
  times,
  series,
  format,
  least,
  bars = false,
}: {
  title: string
  times: string[]
  series: Series[]
  format: (value: number) => string
  least: number
  bars?: boolean
}) {
  const box = useRef<HTMLDivElement>(null)
  const amount = useRef(format)
  amount.current = format
  useEffect(() => {
    const element = box.current
    if (!element) return
    const colour = (name: string) => {
      const probe = document.createElement('span')
      probe.style.color = `var(${name})`
      element.append(probe)
      const found = getComputedStyle(probe).color
      probe.remove()
      return found
    }
    const draw = () => {
      const ink = { stroke: colour('--muted'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false } }
      const paths = bars ? uPlot.paths.bars?.({ size: [0.7, 40] }) : undefined
      return new uPlot(
        {
          width: Math.max(200, element.clientWidth),
          height: 150,
          cursor: { y: false },
          legend: { live: false },
          axes: [
            { ...ink, values: (_, ticks, _axis, _space, apart) => write(ticks, apart) },
            { ...ink, size: 64, values: (_, ticks) => ticks.map((tick) => amount.current(tick)) },
          ],
          scales: { y: { range: (_, _low, high) => [0, Math.max((high ?? 0) * 1.1, least)] } },
          series: [
            {},
            ...series.map(({ label, colour: name, values }) => ({
              label,
              stroke: colour(name),
              width: 1.5,
              spanGaps: true,
              // A point among gaps makes no line.
              ...(values.includes(null) && { points: { show: true, size: 4 } }),
              ...(bars && { fill: colour(name), paths }),
            })),
          ],
        },
        [times.map((time) => Date.parse(time) / 1_000), ...series.map(({ values }) => values)],
        element,
      )
    }
    let plot = draw()
    const resize = new ResizeObserver(() => plot.setSize({ width: Math.max(200, element.clientWidth), height: 150 }))
    resize.observe(element)
    const scheme = matchMedia('(prefers-color-scheme: dark)')
    const redraw = () => {
      plot.destroy()
      plot = draw()
    }
    scheme.addEventListener('change', redraw)
    return () => {
      resize.disconnect()
      scheme.removeEventListener('change', redraw)
      plot.destroy()
    }
  }, [JSON.stringify([times, series])])
  const last = series.map(({ label, values }) => {
    const value = values.findLast((each) => each !== null)
    return `${label} ${value == null ? 'none' : format(value)}`
  })
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <div ref={box} role="img" aria-label={`${title}: at last ${last.join(', ')}`} />
    </figure>
  )
}
