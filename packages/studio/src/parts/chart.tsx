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

/** Lines over points in time. */
export function Chart({
  title,
  times,
  series,
  format,
  bars = false,
}: {
  title: string
  times: string[]
  series: Series[]
  format: (value: number) => string
  bars?: boolean
}) {
  const box = useRef<HTMLDivElement>(null)
  const write = useRef(format)
  write.current = format
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
          axes: [ink, { ...ink, size: 64, values: (_, ticks) => ticks.map((tick) => write.current(tick)) }],
          scales: { y: { range: (_, _low, high) => [0, Math.max(high, 1e-9)] } },
          series: [
            {},
            ...series.map(({ label, colour: name }) => ({
              label,
              stroke: colour(name),
              width: 1.5,
              spanGaps: true,
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
