//! One entry of a listing.

use std::ffi::OsString;
use std::sync::Arc;

use crate::fs::tree::Node;
use crate::node::Attr;

/// A name of a folder.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: OsString,
    pub(crate) attr: Attr,
    /// What the name stands for; none for the folder itself and the one above.
    pub(crate) node: Option<Arc<Node>>,
}

impl Listed {
    pub(super) fn new(name: OsString, node: Node) -> Self {
        Self {
            name,
            attr: node.attr,
            node: Some(Arc::new(node)),
        }
    }
}
