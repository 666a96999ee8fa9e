//! A thin layer over kube: shared informers, work queue, leader election, in-process transport.
