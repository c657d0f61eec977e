{{/* What the operator may do in each namespace that it looks after. */}}
{{- define "ondemand-disk.operatorRules" -}}
# Follow pools, disks and snapshots; put their finalizer and the pool's label on, and take the finalizer off again.
- apiGroups: [ondemanddisk.dev]
  resources: [diskpools, ondemanddisks, disksnapshots]
  verbs: [get, list, watch, patch]
# Say in status how they are.
- apiGroups: [ondemanddisk.dev]
  resources: [diskpools/status, ondemanddisks/status, disksnapshots/status]
  verbs: [patch]
# Own what belongs to them: with OwnerReferencesPermissionEnforcement an API server asks for this.
- apiGroups: [ondemanddisk.dev]
  resources: [diskpools/finalizers, ondemanddisks/finalizers]
  verbs: [update]
# A pool's server. It is deleted with the pool, by Kubernetes; so is all of the next two.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
# Its Service, and the account of its agent.
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
# Keep others than clients and scrapers away from it.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
# Give the agent its role; which one it may be, `bind` says.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, list, watch, create, patch]
# A pool's volume, made from claimTemplate and grown with it. It is never deleted: the data are the user's.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, create, patch]
# The Job that makes a disk, and its clean-up.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# What such a Job of an earlier version reads: it goes with the Job.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [delete]
# Why a pool's server or a Job does not run: the state of its pods.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Whether a namespace is being deleted: its disks' finalizers must go then.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Tell users what happens.
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}
