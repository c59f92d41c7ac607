//! Clients that note which RPCs they call, and the RPCs that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::proto::v1::peer_client::PeerClient;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{GrpcMethod, Request, Status};

/// The RPCs that were called, by node.
#[derive(Clone, Default)]
pub(crate) struct Called(Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>);

impl Called {
    /// The RPCs that were called on a node.
    pub(crate) fn by(&self, id: &str) -> BTreeSet<String> {
        self.0.lock().unwrap().get(id).cloned().unwrap_or_default()
    }
}

/// Every RPC in `proto/`, as `package.Service/Rpc`.
pub(crate) fn declared_rpcs() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(overlay::proto::DESCRIPTORS).unwrap().file;
    let mut declared = BTreeSet::new();
    for file in files {
        let package = file.package.as_ref().map_or_else(String::new, |package| format!("{package}."));
        for service in &file.service {
            let rpcs = service.method.iter();
            declared.extend(rpcs.map(|rpc| format!("{package}{}/{}", service.name(), rpc.name())));
        }
    }
    declared
}

/// A client of each service of one node.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) overlay: OverlayClient<InterceptedService<Channel, Note>>,
    pub(crate) peer: PeerClient<InterceptedService<Channel, Note>>,
    pub(crate) old: OverlayNodeClient<InterceptedService<Channel, Note>>,
}

impl Node {
    pub(crate) async fn connect(id: &str, address: &str, called: &Called) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let note = Note { id: id.to_owned(), called: called.clone() };
        Node {
            id: id.to_owned(),
            overlay: OverlayClient::with_interceptor(channel.clone(), note.clone()),
            peer: PeerClient::with_interceptor(channel.clone(), note.clone()),
            old: OverlayNodeClient::with_interceptor(channel, note),
        }
    }
}

/// Notes the name that a generated client gives each of its requests.
#[derive(Clone)]
pub(crate) struct Note {
    id: String,
    called: Called,
}

impl Interceptor for Note {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let rpc = request.extensions().get::<GrpcMethod<'static>>().unwrap();
        let name = format!("{}/{}", rpc.service(), rpc.method());
        self.called.0.lock().unwrap().entry(self.id.clone()).or_default().insert(name);
        Ok(request)
    }
}
