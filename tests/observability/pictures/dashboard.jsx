// One dashboard, drawn from its JSON and the answers of Prometheus with Grafana's own components.
//
// Grafana publishes neither its state timeline nor its heatmap: stand-ins draw them, in the colours of the same mappings.
// What cannot be drawn throws, and the picture is not taken.
import 'uplot/dist/uPlot.min.css';
import { useEffect, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';
import {
  FieldType, ThemeContext, createTheme, dateTime, formattedValueToString, getDisplayProcessor, getDisplayValueAlignmentFactors,
  getFieldDisplayName, getFieldDisplayValues, renderLegendFormat, standardTransformers, standardTransformersRegistry,
  toDataFrame, transformDataFrame,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from './node_modules/@grafana/ui/dist/esm/components/Table/TableNG/TableNG.mjs';

const { title, panels, begun, ended, step } = window.dashboard;
const theme = createTheme({ colors: { mode: 'dark' } });
const [from, to] = [dateTime(begun * 1000), dateTime(ended * 1000)];
const timeRange = { from, to, raw: { from, to } };

const WIDTH = 1600, COLUMN = WIDTH / 24, ROW = 38, GAP = 8, LABELS = 190;

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((each) => ({
    id: each.id, name: each.name, transformation: () => Promise.resolve(each),
  })));

// Prometheus' answer to one query, as frames of the format that the query asks for.
function frames({ target, result }) {
  if (target.format === 'table') return [tabled(target, result)];
  return result.map(({ metric, value, values = [value] }) => toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: values.map(([time]) => time * 1000), config: { interval: step * 1000 } },
      { name: 'Value', type: FieldType.number, labels: metric, values: values.map(([, read]) => number(read)),
        config: { displayNameFromDS: renderLegendFormat(target.legendFormat, metric) } },
    ],
  }));
}

function tabled(target, result) {
  const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))];
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map(({ value }) => value[0] * 1000) },
      ...labels.map((name) => ({ name, type: FieldType.string, values: result.map(({ metric }) => metric[name] ?? '') })),
      { name: `Value #${target.refId}`, type: FieldType.number, values: result.map(({ value }) => number(value[1])) },
    ],
  });
}

const number = (read) => (read === 'NaN' ? null : Number(read));

// The panel's options for its fields, with what is meant for one field only.
function configured(drawn, panel) {
  const { defaults, overrides = [] } = panel.fieldConfig;
  const mode = panel.type === 'timeseries' ? 'palette-classic' : 'thresholds';
  let seriesIndex = 0;
  for (const frame of drawn) for (const field of frame.fields) {
    field.config = { color: { mode }, ...defaults, ...field.config, custom: { ...defaults.custom } };
    if (field.type === FieldType.time) field.config = { custom: field.config.custom, interval: field.config.interval };
    if (field.type === FieldType.number) field.state = { ...field.state, seriesIndex: seriesIndex++ };
    for (const { matcher, properties } of overrides) {
      if (matcher.options !== getFieldDisplayName(field, frame, drawn)) continue;
      for (const { id, value } of properties) {
        if (id.startsWith('custom.')) field.config.custom[id.slice('custom.'.length)] = value;
        else field.config[id] = value;
      }
    }
    field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    field.getLinks = () => [];
  }
  return drawn;
}

const valuesOf = (panel, drawn) => () => getFieldDisplayValues({
  fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme,
  data: drawn, timeZone: 'utc',
});

function Stat({ panel, drawn, width, height }) {
  const { colorMode, graphMode, justifyMode, textMode } = panel.options;
  return (
    <VizRepeater
      getValues={valuesOf(panel, drawn)} getAlignmentFactors={getDisplayValueAlignmentFactors} source={drawn} renderCounter={0}
      width={width} height={height} orientation="auto" autoGrid
      renderValue={({ value: { display }, ...place }) => (
        <BigValue {...place} value={display} theme={theme} {...{ colorMode, graphMode, justifyMode, textMode }} />
      )}
    />
  );
}

function Bars({ panel, drawn, width, height }) {
  const { displayMode, orientation, showUnfilled } = panel.options;
  return (
    <VizRepeater
      getValues={valuesOf(panel, drawn)} getAlignmentFactors={getDisplayValueAlignmentFactors} source={drawn} renderCounter={0}
      width={width} height={height} orientation={orientation} minVizHeight={16} maxVizHeight={300}
      renderValue={({ value: { display, field, view, colIndex }, ...place }) => (
        <BarGauge
          {...place} value={display} field={field} display={view?.getFieldDisplayProcessor(colIndex)} theme={theme}
          displayMode={displayMode} showUnfilled={showUnfilled ?? true}
        />
      )}
    />
  );
}

function Lines({ panel, drawn, width, height }) {
  return (
    <TimeSeries
      frames={drawn} width={width} height={height} timeRange={timeRange} timeZone="utc"
      legend={panel.options.legend} options={panel.options}
    />
  );
}

function Rows({ panel, raw, width, height }) {
  const [joined, show] = useState();
  useEffect(() => {
    const following = transformDataFrame(panel.transformations, raw).subscribe((found) => show(configured(found, panel)));
    return () => following.unsubscribe();
  }, []);
  return joined
    ? <TableNG data={joined[0]} width={width} height={height} sortBy={panel.options.sortBy} />
    : <div className="waiting" />;
}

function Timeline({ drawn, width, height }) {
  const rowHeight = (height - 46) / drawn.length;
  const [statuses] = drawn[0].fields[1].config.mappings;
  return (
    <div style={{ width, height, fontSize: 12 }}>
      {drawn.map(({ fields: [time, value] }, row) => (
        <div key={row} style={{ display: 'flex', height: rowHeight, alignItems: 'center' }}>
          <Label>{value.config.displayNameFromDS}</Label>
          <div style={{ position: 'relative', flex: 1, height: rowHeight * 0.85 }}>
            {[...time.values].map((at, index) => (
              <div key={at} style={{
                position: 'absolute', height: '100%', background: value.display(value.values[index]).color,
                left: share(at), width: `${(100 * step * 1.1) / (ended - begun)}%`,
              }} />
            ))}
          </div>
        </div>
      ))}
      <Times />
      <div style={{ display: 'flex', gap: 16, paddingTop: 4 }}>
        {Object.values(statuses.options).map(({ text, color }) => (
          <span key={text}>
            <span style={{ background: theme.visualization.getColorByName(color), padding: '0 8px', marginRight: 6 }} />
            {text}
          </span>
        ))}
      </div>
    </div>
  );
}

function Heat({ panel, drawn, height }) {
  const rows = [...drawn].sort((one, other) => bound(other) - bound(one));
  const times = [...rows[0].fields[0].values];
  const upTo = rows.map(({ fields: [time, value] }) => new Map([...time.values].map((at, index) => [at, value.values[index]])));
  const counts = upTo.map((row, index) => times.map((at) => Math.max(0, (row.get(at) ?? 0) - (upTo[index + 1]?.get(at) ?? 0))));
  const most = Math.max(...counts.flat());
  const read = getDisplayProcessor({ field: { type: FieldType.number, config: { unit: panel.options.yAxis.unit } }, theme });
  return (
    <div style={{ fontSize: 11 }}>
      {rows.map((frame, row) => (
        <div key={row} style={{ display: 'flex', height: (height - 26) / rows.length }}>
          <Label narrow>{Number.isFinite(bound(frame)) ? formattedValueToString(read(bound(frame))) : '+Inf'}</Label>
          {counts[row].map((count, index) => (
            <div key={times[index]} style={{
              flex: 1, margin: 0.5, background: count && `rgba(255, 152, 48, ${0.15 + (0.85 * count) / most})`,
            }} />
          ))}
        </div>
      ))}
      <Times narrow />
    </div>
  );
}

const bound = (frame) => (frame.fields[1].labels.le === '+Inf' ? Infinity : Number(frame.fields[1].labels.le));
const share = (at) => `${(100 * (at / 1000 - begun)) / (ended - begun)}%`;

function Label({ narrow, children }) {
  return (
    <div style={{ width: narrow ? 60 : LABELS, flex: 'none', overflow: 'hidden', paddingRight: 8, textAlign: 'right', whiteSpace: 'nowrap' }}>
      {children}
    </div>
  );
}

function Times({ narrow }) {
  const each = 30_000, first = Math.ceil((begun * 1000) / each) * each;
  const marks = Array.from({ length: Math.floor((ended * 1000 - first) / each) + 1 }, (_, index) => first + index * each);
  return (
    <div style={{ position: 'relative', height: 20, marginLeft: narrow ? 60 : LABELS }}>
      {marks.map((at) => (
        <span key={at} style={{ position: 'absolute', left: share(at), transform: 'translateX(-50%)' }}>
          {new Date(at).toISOString().slice(11, 19)}
        </span>
      ))}
    </div>
  );
}

function Nothing({ panel, width, height }) {
  return (
    <div style={{ width, height, display: 'flex', alignItems: 'center', justifyContent: 'center', color: theme.colors.text.secondary }}>
      {panel.fieldConfig.defaults.noValue}
    </div>
  );
}

const KINDS = {
  'bargauge': Bars,
  'heatmap': Heat,
  'stat': Stat,
  'state-timeline': Timeline,
  'table': Rows,
  'timeseries': Lines,
};

function Panel({ panel, answers, width, height }) {
  const raw = useMemo(() => answers.flatMap(frames), []);
  const drawn = useMemo(() => (panel.type === 'table' ? raw : configured(raw, panel)), []);
  const Kind = KINDS[panel.type];
  if (!Kind) throw new Error(`no way to draw a ${panel.type}`);
  const empty = !raw.length && panel.type !== 'stat';
  const Shown = empty ? Nothing : Kind;
  return <Shown panel={panel} raw={raw} drawn={drawn} width={width} height={height} />;
}

function Dashboard() {
  const rows = Math.max(...panels.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div id="dashboard" style={{ width: WIDTH + GAP, background: theme.colors.background.canvas, padding: GAP }}>
        <div style={{ color: theme.colors.text.primary, fontSize: 18, padding: '4px 8px 12px' }}>{title}</div>
        <div style={{ position: 'relative', height: rows * ROW }}>
          {panels.map(({ panel, answers }) => {
            const { x, y, w, h } = panel.gridPos, width = w * COLUMN - GAP, height = h * ROW - GAP;
            return (
              <div key={panel.id} style={{ position: 'absolute', left: x * COLUMN, top: y * ROW, width, height }}>
                <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
                  {(width, height) => <Panel {...{ panel, answers, width, height }} />}
                </PanelChrome>
              </div>
            );
          })}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')).render(<Dashboard />);
