//! The server.

mod connection;
mod gzip;
mod listen;
mod query;
mod routes;

use std::{
    convert::Infallible,
    future::Future,
    num::NonZeroUsize,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use clap::ArgAction;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{sync::watch, time};
use tracing::{debug, info, warn};

use crate::{
    api::Api,
    collector::{Entry, Layer},
    exporter::Exporter,
    page::Pages,
    scrape::{Scraper, Workers},
};
use connection::{Connections, Place, Watched};
use listen::{Address, Listener, Stream};
use query::Known;
use routes::Service;

/// How long requests may take to finish once the exporter was told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be taken, such as without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// More than any request for metrics needs. What hyper reads before it looks at the
/// limit can be as much again.
const MAX_HEADERS: usize = 32 << 10;

/// Where and how to serve.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Where to listen: HOST:PORT, :PORT for every address, or unix:PATH. May be given several times.
    #[arg(
        long = "web.listen-address",
        value_name = "ADDRESS",
        default_value = ":9100",
        action = ArgAction::Append
    )]
    listen_addresses: Vec<Address>,
    /// The path at which the metrics are.
    #[arg(
        long = "web.telemetry-path",
        value_name = "PATH",
        default_value = "/metrics",
        value_parser = path
    )]
    telemetry_path: String,
    /// Most requests for metrics answered at the same time, and of those for JSON; more get status 503. 0 is no limit.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    max_requests: usize,
    /// Most connections open at the same time; for one more the longest idle one is closed.
    #[arg(long = "web.max-connections", value_name = "N", default_value_t = 512)]
    max_connections: usize,
    /// Leave out the metrics about the exporter itself (process_*, promhttp_*, strata_*).
    #[arg(long = "web.disable-exporter-metrics", default_value_t = false, action = ArgAction::Set)]
    disable_exporter_metrics: bool,
    /// Listen on the sockets that systemd hands over instead of on addresses.
    #[arg(long = "web.systemd-socket", default_value_t = false, action = ArgAction::Set)]
    systemd_socket: bool,
}

fn path(path: &str) -> Result<String, String> {
    if path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err("must start with /".to_owned())
    }
}

/// The server, listening.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    connections: Arc<Connections>,
    service: Arc<Service>,
}

impl Server {
    /// Listens where the flags say; what the error says is for the command line.
    pub async fn bind(
        flags: Flags,
        scraper: Arc<Scraper>,
        api: Api,
        collectors: &'static [Entry],
        workers: Workers,
    ) -> Result<Self, String> {
        let listeners = if flags.systemd_socket {
            Listener::from_systemd()?
        } else {
            let mut listeners = Vec::new();
            for address in &flags.listen_addresses {
                listeners.push(Listener::bind(address).await?);
            }
            listeners
        };
        let exporter = Arc::new(Exporter::starting_now());
        let all = collectors.iter().map(|entry| entry.name);
        let enabled: Vec<(_, Layer)> = scraper.collectors().collect();
        let api = Arc::new(api);
        let pages = Pages::new(
            Arc::clone(&api),
            Arc::clone(&scraper),
            workers.clone(),
            collectors,
            &flags.telemetry_path,
        );
        let service = Service {
            pages,
            known: Known::new(all, enabled),
            scraper,
            api,
            api_in_flight: AtomicUsize::new(0),
            workers,
            exporter: Arc::clone(&exporter),
            telemetry_path: flags.telemetry_path,
            max_requests: NonZeroUsize::new(flags.max_requests),
            own_metrics_disabled: flags.disable_exporter_metrics,
        };
        Ok(Self {
            listeners,
            connections: Arc::new(Connections::new(flags.max_connections.max(1), exporter)),
            service: Arc::new(service),
        })
    }

    /// Serves until `stop` is over, then lets what was asked for be answered.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let mut accepting = Vec::new();
        for listener in self.listeners {
            info!(address = %listener, "listening");
            let connections = Arc::clone(&self.connections);
            let service = Arc::clone(&self.service);
            accepting.push(tokio::spawn(accept(
                listener,
                connections,
                service,
                stopped.clone(),
            )));
        }
        drop(stopped);
        stop.await;
        // Nobody listens when all connections are gone already.
        stopping.send(true).ok();
        if time::timeout(DRAIN_LIMIT, stopping.closed()).await.is_err() {
            warn!("some requests were still being answered");
        }
    }
}

/// Takes connections until told to stop.
async fn accept(
    listener: Listener,
    connections: Arc<Connections>,
    service: Arc<Service>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok(stream) => {
                failing = false;
                if let Some(place) = connections.enter() {
                    let service = Arc::clone(&service);
                    tokio::spawn(converse(stream, place, service, stopped.clone()));
                }
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "cannot take a connection");
                }
                failing = true;
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn converse(
    stream: Stream,
    place: Place,
    service: Arc<Service>,
    mut stopped: watch::Receiver<bool>,
) {
    let pulse = &place.pulse;
    let answer = service_fn(|request: hyper::Request<Incoming>| async {
        pulse.answering();
        let answer = service.answer(request).await;
        pulse.answered();
        answer as Result<_, Infallible>
    });
    let io = TokioIo::new(Watched::new(stream, Arc::clone(pulse)));
    let connection = http1::Builder::new()
        .half_close(true)
        .max_buf_size(MAX_HEADERS)
        // Ours are kept by the pulse, which knows idle from slow.
        .header_read_timeout(None)
        .serve_connection(io, answer);
    tokio::pin!(connection);
    let overdue = pulse.overdue();
    tokio::pin!(overdue);
    let mut draining = false;
    loop {
        tokio::select! {
            // The connection first: what happens on it moves the limit.
            biased;
            served = connection.as_mut() => {
                if let Err(error) = served {
                    debug!(%error, "connection failed");
                }
                return;
            }
            reason = overdue.as_mut() => {
                debug!(?reason, "connection closed");
                place.close(reason);
                return;
            }
            _ = stopped.changed(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
