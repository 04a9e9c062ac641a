// Package mesh measures how a large fabric comes together: many real daemons,
// each in its own namespaces, join one real etcd at once; later some leave and
// return.
//
// A pair of hosts is programmed when the kernel of the one tells of a route to
// the subnet of the other, which is what the daemons install last. All of it
// shares one machine, whose share per host is thus small: the result says how
// busy the machine was and with what.
//
// It owns its fabric and the result file. It never changes what it measures.
// Called by `lab mesh`.
package mesh
