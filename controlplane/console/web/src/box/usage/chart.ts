/** uPlot as the page of the metrics uses it. */

import 'uplot/dist/uPlot.min.css';

import uPlot from 'uplot';

export interface ChartOptions {
  label: string;
  /** The largest value that the axis shows at least. */
  most: number | undefined;
  format: (value: number) => string;
  isDark: boolean;
}

const LEAST_S = 60; // that the axis of the times shows

const clock = (at: number) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

/** A line over time. */
export class Chart {
  private readonly plot: uPlot;
  private readonly observer: ResizeObserver;

  constructor(element: HTMLElement, options: ChartOptions) {
    const [line, fill, axis, grid] = options.isDark
      ? ['#3fd0bd', '#3fd0bd22', '#9fadb9', '#2b3640']
      : ['#0b6b63', '#0b6b6322', '#52606d', '#dce1e5'];
    const ends = { stroke: axis, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    this.plot = new uPlot(
      {
        width: element.clientWidth || 300,
        height: 160,
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        scales: { x: { time: true, range: (_plot, low, high) => [Math.min(low, high - LEAST_S), high] }, y: { range: (_plot, _low, high) => [0, Math.max(options.most ?? 1, high)] } },
        axes: [{ ...ends, space: 90, values: (_plot, values) => values.map(clock) }, { ...ends, size: 64, values: (_plot, values) => values.map(options.format) }],
        series: [{}, { label: options.label, stroke: line, fill, width: 2, points: { show: false } }],
      },
      [[], []],
      element,
    );
    this.observer = new ResizeObserver(() => this.plot.setSize({ width: element.clientWidth, height: 160 }));
    this.observer.observe(element);
  }

  update(times: number[], values: (number | null)[]): void {
    this.plot.setData([times, values]);
  }

  destroy(): void {
    this.observer.disconnect();
    this.plot.destroy();
  }
}
