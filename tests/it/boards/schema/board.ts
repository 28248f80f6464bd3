// What a board here may be: Grafana's classic model, with the options and field settings
// that each kind of panel declares, which the model itself leaves open.

import type { Dashboard, Panel, RowPanel } from "@grafana/schema";
import type { GraphFieldConfig, TableFieldOptions } from "@grafana/schema";
import type { Options as Bars } from "@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen";
import type { Options as Tile } from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type { Options as Table } from "@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type { Options as Lines } from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

// The model's only query type is any object. Names as in PromQuery of @grafana/prometheus.
interface Question {
  refId: string;
  datasource: { type: "prometheus"; uid: "${datasource}" };
  editorMode: "code";
  expr: string;
  format: "time_series" | "table";
  instant: boolean;
  range: boolean;
  legendFormat: string;
}

interface Kind<Type extends string, Options, Field>
  extends Omit<Panel<Options, Field>, "type" | "options" | "targets" | "fieldConfig"> {
  type: Type;
  id: number;
  title: string;
  description: string;
  pluginVersion: "13.2.2";
  options: Options;
  targets: Question[];
  fieldConfig: {
    defaults: Omit<NonNullable<Panel["fieldConfig"]>["defaults"], "custom"> & { custom?: Field };
    overrides: NonNullable<Panel["fieldConfig"]>["overrides"];
  };
}

type Shown =
  | Kind<"bargauge", Bars, never>
  | Kind<"stat", Tile, never>
  | Kind<"table", Table, TableFieldOptions>
  | Kind<"timeseries", Lines, GraphFieldConfig>;

interface Row extends Omit<RowPanel, "panels"> {
  panels: Shown[];
}

export interface Board extends Omit<Dashboard, "panels" | "schemaVersion"> {
  schemaVersion: 42;
  panels: (Shown | Row)[];
}
