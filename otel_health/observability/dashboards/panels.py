"""How panels look: each kind in one way, so that whoever knows one dashboard can read all of them."""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardSpecialValueMapOptions,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

GREEN, YELLOW, RED, GREY, BLUE = "green", "#EAB839", "red", "#808080", "blue"

NO_DATA: Final = "no data"
"""What a panel says that should always show something, and does not."""

NOTHING: Final = SpecialValueMap(
    DashboardSpecialValueMapOptions(
        match=SpecialValueMatch.NULL_AND_NAN, result=ValueMappingResult(text=NO_DATA, color=GREY)
    )
)

BLANK: Final[list[ValueMapping]] = [
    SpecialValueMap(DashboardSpecialValueMapOptions(match=match, result=ValueMappingResult(text="–")))
    for match in (SpecialValueMatch.NULL_AND_NAN, SpecialValueMatch.EMPTY)
]
"""In a table, nothing is said of what there is nothing to say of."""

STATUSES: Final[list[ValueMapping]] = [
    ValueMap(
        {
            "0": ValueMappingResult(text="pass", color=GREEN, index=0),
            "1": ValueMappingResult(text="warn", color=YELLOW, index=1),
            "2": ValueMappingResult(text="fail", color=RED, index=2),
        }
    ),
    NOTHING,
]
"""What a status is called and coloured where it is a number."""

Limits = Sequence[tuple[float | None, str]]
"""From which value on which colour holds; the first from None, which is below all."""

BAD_FROM_ONE: Final[Limits] = ((None, GREEN), (1, RED))

_Panel = TypeVar(
    "_Panel", bargauge.Panel, heatmap.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel
)


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query over the time range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").datasource(SOURCE).range()


def at_once(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query at the end of the time range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").datasource(SOURCE).instant()


def number(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    unit: str = units.Short,
    limits: Limits = ((None, BLUE),),
    mappings: Sequence[ValueMapping] = (),
    named: bool = False,
    width: int = 4,
    decimals: int | None = None,
    empty: str = NO_DATA,
) -> stat.Panel:
    """Return a panel of one number, or a few with their names, as things stand."""
    panel = (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME if named else BigValueTextMode.VALUE)
    )
    if decimals is not None:
        panel.decimals(decimals)
    return _made(panel, title, description, queries, unit, limits, mappings, width, 4, empty)


def timeline(title: str, description: str, *queries: prometheus.Dataquery, height: int) -> statetimeline.Panel:
    """Return a panel of statuses over time, a row for each name."""
    panel = (
        statetimeline.Panel()
        .show_value(VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.85)
        .fill_opacity(85)
        .line_width(0)
        .legend(_legend(LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    limits = ((None, GREEN), (1, YELLOW), (2, RED))
    return _made(panel, title, description, queries, units.NoUnit, limits, STATUSES, 24, height)


def lines(
    title: str,
    description: str,
    *queries: prometheus.Dataquery,
    unit: str,
    width: int = 12,
    limits: Limits = (),
    most: float | None = None,
    least: float | None = 0,
    up_to: float | None = None,
    down_to: float | None = None,
    empty: str = NO_DATA,
) -> timeseries.Panel:
    """Return a panel of lines over time; limits are drawn across, and the axis reaches that far at least."""
    panel = (
        timeseries.Panel()
        .legend(_legend(LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .draw_style(GraphDrawStyle.LINE)
        .line_width(2)
        .fill_opacity(5)
        .show_points(VisibilityMode.AUTO)
    )
    if limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if up_to is not None:
        panel.axis_soft_max(up_to)
    if down_to is not None:
        panel.axis_soft_min(down_to)
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    return _made(panel, title, description, queries, unit, limits or ((None, GREEN),), (), width, 8, empty)


def bars(
    title: str, description: str, *queries: prometheus.Dataquery, unit: str, empty: str, width: int = 12
) -> timeseries.Panel:
    """Return a panel of stacked bars over time, for what happens now and then, or has not happened yet."""
    panel = (
        timeseries.Panel()
        .legend(_legend(LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .draw_style(GraphDrawStyle.BARS)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        .fill_opacity(80)
        .line_width(0)
        .min(0)
    )
    return _made(panel, title, description, queries, unit, ((None, GREEN),), (), width, 8, empty)


def heat(title: str, description: str, buckets: str) -> heatmap.Panel:
    """Return a panel of how often what took how long, from the buckets of a histogram."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).reverse(False))
        .y_axis(heatmap.YAxisConfig().unit(units.Seconds))
        .cell_gap(1)
        .hide_legend()
        .scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LINEAR))
        .tooltip(heatmap.HeatmapTooltip().mode(TooltipDisplayMode.SINGLE).y_histogram(True))
    )
    asked = query(buckets, "{{le}}").format(PromQueryFormat.HEATMAP)
    return _made(panel, title, description, (asked,), units.CountsPerMinute, ((None, GREEN),), (), 12, 8)


def ranking(
    title: str, description: str, *queries: prometheus.Dataquery, unit: str, limits: Limits, width: int, empty: str
) -> bargauge.Panel:
    """Return a panel of names with a bar each."""
    panel = (
        bargauge.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .min(0)
        .max(1)
        .decimals(2)
    )
    return _made(panel, title, description, queries, unit, limits, (), width, 8, empty)


class Column(NamedTuple):
    """One column of a table: what it is called in the data, and on the screen; how its values read."""

    field: str
    title: str
    properties: list[DynamicConfigValue]


def column(field: str, title: str, **properties: object) -> Column:
    """Return a column whose values have these properties, by Grafana's names with `__` for a dot."""
    read = {"mappings": BLANK, "noValue": "–", **properties}
    return Column(field, title, [DynamicConfigValue(name.replace("__", "."), value) for name, value in read.items()])


def rows(
    title: str, description: str, *queries: prometheus.Dataquery, columns: Sequence[Column], hidden: Sequence[str]
) -> table.Panel:
    """Return a panel of a table: the queries joined by the labels that they have in common."""
    panel = (
        table.Panel()
        .with_transformation(DataTransformerConfig("merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": dict.fromkeys(hidden, True),
                    "indexByName": {each.field: place for place, each in enumerate(columns)},
                    "renameByName": {each.field: each.title for each in columns},
                },
            )
        )
        .filterable(True)
        .sort_by([common.TableSortByFieldState().display_name(columns[0].title).desc(True)])
    )
    for each in columns:
        panel.override_by_name(each.title, each.properties)
    tabled = [asked.format(PromQueryFormat.TABLE) for asked in queries]
    return _made(panel, title, description, tabled, units.NoUnit, ((None, GREEN),), (), 24, 10)


def _made(
    panel: _Panel,
    title: str,
    description: str,
    queries: Sequence[prometheus.Dataquery],
    unit: str,
    limits: Limits,
    mappings: Sequence[ValueMapping],
    width: int,
    height: int,
    empty: str = NO_DATA,
) -> _Panel:
    """What every panel has."""
    for ref_id, each in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(each.ref_id(ref_id))
    steps = [Threshold(value=value, color=color) for value, color in limits]
    return (
        panel.title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .mappings(list(mappings) or [NOTHING])
        .no_value(empty)
        .span(width)
        .height(height)
    )


def _legend(mode: LegendDisplayMode) -> common.VizLegendOptions:
    return common.VizLegendOptions().show_legend(True).display_mode(mode).placement(LegendPlacement.BOTTOM).calcs([])
