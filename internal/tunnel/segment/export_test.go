package segment

// Open says how many flows a merger can hold open at once.
const Open = flows
