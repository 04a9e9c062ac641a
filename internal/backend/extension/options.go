package extension

// Options are the keys of the Backend object.
type Options struct {
	PreStartupCommand   string `doc:"run once at the start of flanneld, before the lease is asked for; what it prints becomes this host's backend data, which others get on the input of their SubnetAddCommand"`
	PostStartupCommand  string `doc:"run when this host has its lease; the host is not ready before it succeeds"`
	SubnetAddCommand    string `doc:"run for each other host, at the start and when the host appears or changes"`
	SubnetRemoveCommand string `doc:"run when another host is gone, and before SubnetAddCommand when it changed"`
	Timeout             uint16 `default:"30" range:"1..3600" doc:"longest run of a command in seconds; it is killed then, and tried again later"`
}
