//! A scrape of a fixture machine is, byte for byte, the files in `tests/golden`.

use std::path::Path;

use strata_exporter::exposition::Format;

#[tokio::test(flavor = "multi_thread")]
async fn every_machine_in_both_formats() {
    for machine in crate::support::MACHINES {
        for (format, extension) in [
            (Format::Plain, "prom"),
            (Format::OpenMetrics, "openmetrics"),
        ] {
            let body = crate::support::page(machine, format).await;
            let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/golden")
                .join(format!("{machine}.{extension}"));
            crate::support::assert_same_as_file(&golden, &body);
        }
    }
}
