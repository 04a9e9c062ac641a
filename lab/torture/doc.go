// Package torture sends known packets through every combination of the data
// paths of two hosts and compares byte for byte what comes out with what went
// in, as an IP router with two hops has to deliver it.
//
//	c1 ─ cni0 ─ h1 ═══ tunnel ═══ h2 ─ cni0 ─ c2
//	▲ raw frames        ▲ captured              ▲ captured
//
// Packets enter and leave by packet sockets inside the containers, under
// addresses that no kernel answers for. The container's port segments and sums
// before the capture, so what is compared is what a wire would carry. Each host
// forwards once: TTL less two is the only change that is allowed.
//
// It owns its fabrics. It shares no code with what it judges: packets are built
// here from the RFCs. Called by `lab torture` and its own test.
package torture
